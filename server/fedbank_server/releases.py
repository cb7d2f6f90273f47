"""The coordinator's part in releases: it drafts changes, collects the banks' signatures and publishes what they signed.

Everything lies in ``releases/`` of its folder. The one key that it holds here is the online key, which says what is
newest and for how long; whoever steals it can withhold what is new, and nothing else.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from tuf.api.metadata import Metadata, TargetFile

from fedbank.durable import write_atomic
from fedbank.errors import RunError
from fedbank.membership.folders import locked
from fedbank.release.change import (
    Change,
    Draft,
    Trusted,
    anew,
    is_complete,
    shortfall,
    signed_by,
    with_channel,
    with_release,
)
from fedbank.release.contents import CHANNELS, FILES, MANIFEST, Channel, Contents, channel_path, release_path
from fedbank.release.drafts import DraftFolder, read_signature
from fedbank.release.errors import ReleaseError
from fedbank.release.inspection import inspect
from fedbank.release.manifest import Manifest
from fedbank.release.repository import SIGNED_LIFE
from fedbank.release.signatories import Signatories
from fedbank.sealing.keys import PublicKey
from fedbank_server.release_files import ReleaseFiles


def draft_signatories(
    folder: Path,
    consortium: str,
    now: datetime,
    *,
    add: Mapping[str, PublicKey],
    remove: Sequence[str],
    threshold: int | None,
    new_online: bool = False,
) -> DraftFolder:
    """Draft other signatories: ``add`` (a bank that is there gets another key), ``remove``, another ``threshold``.

    ``threshold`` ``None``: more than half, where banks come or go. Without any of these: the same ones, for longer.

    Raises:
        RunError: a bank to remove is none.
        ReleaseError: a key that two hold, or a threshold that cannot be reached.
    """
    files = ReleaseFiles(folder)
    with locked(folder):
        now_trusted = files.trusted()
        before = Signatories.of(now_trusted.root) if now_trusted.root else None
        banks = {**(before.banks if before else {}), **add}
        for bank in remove:
            if banks.pop(bank, None) is None:
                raise RunError(f"Expected a bank that signs releases, got {bank!r:.80}. Nothing was drafted.")
        if not banks:
            raise RunError("Expected at least one bank's release key, got none. Give: --add FILE, from the bank.")
        if threshold is None:
            same = before is not None and before.banks.keys() == banks.keys()
            threshold = before.threshold if before is not None and same else len(banks) // 2 + 1
        online = files.make_next_online() if new_online else files.load_online()
        version = (now_trusted.root.version if now_trusted.root else 0) + 1
        after = Signatories(consortium, banks, threshold, online.public)
        expires = _until(now)
        again = anew(now_trusted.targets, expires)
        draft = Draft(Metadata(after.root(version, expires)), Metadata(again) if again else None)
        return _keep(files, f"signatories-{version}", draft, {})


def draft_release(folder: Path, release: Path, now: datetime) -> DraftFolder:
    """Draft the release whose four files lie in ``release``.

    Raises:
        ReleaseError: they are not exactly a release, or one of its name is there already, or nobody can sign yet.
    """
    files = ReleaseFiles(folder)
    with locked(folder):
        now_trusted = _with_signatories(files)
        name = inspect(release).manifest.release
        if now_trusted.targets and name in Contents.of(now_trusted.targets).releases:
            raise ReleaseError("release-id", f"Expected a new release, got {name}, which is published.")
        paths = {release_path(name, file): release / file for file in FILES}
        listed = {path: TargetFile.from_file(path, str(at), ["sha256"]) for path, at in paths.items()}
        following = with_release(now_trusted.targets, listed, _until(now))
        return _keep(files, f"release-{name}", Draft(None, Metadata(following)), paths)


def draft_channel(folder: Path, channel: str, release: str, now: datetime) -> DraftFolder:
    """Draft that ``channel`` names ``release``, a newer one or an older one.

    Raises:
        ReleaseError: no such channel or release, or it names that one already.
    """
    files = ReleaseFiles(folder)
    with locked(folder):
        now_trusted = _with_signatories(files)
        known = Contents.of(now_trusted.targets).releases if now_trusted.targets else {}
        if channel not in CHANNELS or now_trusted.targets is None or release not in known:
            shown = ", ".join(known) or "none"
            raise ReleaseError(
                "channel",
                f"Expected {' or '.join(CHANNELS)} and a release ({shown}), got {channel} and {release!r:.80}.",
            )
        before = now_trusted.channels.get(channel)
        if before is not None and before.release == release:
            raise ReleaseError("channel", f"Expected another release for {channel}, got {release}, which it names.")
        after = Channel(release, (before.seq if before else 0) + 1)
        place = files.drafts / f".{channel}.json"
        write_atomic(place, after.to_bytes())
        following = with_channel(now_trusted.targets, channel, after, _until(now))
        drafted = _keep(
            files, f"{channel}-{after.seq}", Draft(None, Metadata(following)), {channel_path(channel): place}
        )
        place.unlink()
        return drafted


def earlier_release(folder: Path, channel: str) -> str:
    """What ``channel`` should name after a rollback: the parent of what it names now.

    Raises:
        ReleaseError: there is none.
    """
    files = ReleaseFiles(folder)
    now = files.trusted().channels.get(channel)
    if now is None:
        raise ReleaseError("channel", f"Expected a channel that names a release, got {channel!r:.40}.")
    current = files.repository.current()
    assert current is not None
    listed = Contents.of(current.signed).releases
    manifest = Manifest.from_bytes(files.repository.path_of(listed[now.release][MANIFEST]).read_bytes())
    if manifest.parent not in listed:
        raise ReleaseError("channel", f"Expected a release before {now.release}, got none. Name one with --to RELEASE.")
    return str(manifest.parent)


@dataclass(frozen=True, slots=True)
class DraftState:
    """A draft as it is: what it changes, who signed, how many are needed, whether that is enough."""

    change: Change
    signed: Sequence[str]
    threshold: int
    complete: bool


def draft_state(folder: Path, drafted: DraftFolder) -> DraftState:
    """Where a draft stands; ``ReleaseError`` if it does not follow what counts now."""
    now = ReleaseFiles(folder).trusted()
    draft = drafted.read()
    change = drafted.change(now, draft)
    judge = draft.root.signed if draft.root is not None else now.root
    assert judge is not None
    return DraftState(change, signed_by(draft, now.root), Signatories.of(judge).threshold, is_complete(draft, now.root))


def open_drafts(folder: Path) -> tuple[Mapping[str, DraftState], Sequence[str]]:
    """Every draft that follows what counts now, and the names of those that another change has overtaken."""
    states, overtaken = dict[str, DraftState](), []
    for path in sorted(ReleaseFiles(folder).drafts.glob("[!.]*")):
        try:
            states[path.name] = draft_state(folder, DraftFolder(path))
        except ReleaseError as error:
            if error.check != "version":
                raise
            overtaken.append(path.name)
    return states, overtaken


def collect(drafted: DraftFolder, signatures: Sequence[bytes]) -> None:
    """Put banks' signature files into the draft; ``ReleaseError`` if one is none."""
    for content in signatures:
        for signature in read_signature(content).values():
            write_atomic(drafted.folder / "signatures" / f"{signature.keyid}.json", content)


def publish(
    folder: Path,
    drafted: DraftFolder,
    now: datetime,
    note: Callable[[Change, Sequence[str]], None] = lambda change, signed: None,
) -> Change:
    """Publish a draft that enough banks signed. ``note`` gets the change and who signed it, before it is done.

    Raises:
        ReleaseError: too few did, or it does not follow what counts now; nothing was published.
    """
    files = ReleaseFiles(folder)
    with locked(folder):
        trusted, draft = files.trusted(), drafted.read()
        if files.repository.holds(draft):
            return _complete(files, drafted, now)
        change = drafted.change(trusted, draft)
        new = drafted.new_files(change)
        if not is_complete(draft, trusted.root):
            raise ReleaseError("signatures", f"{shortfall(draft, trusted.root)} Nothing was published.")
        note(change, signed_by(draft, trusted.root))
        root = draft.root.signed if draft.root is not None else trusted.root
        files.repository.publish(draft, new, files.online_for(root), now)
        if root is not None:
            files.settle_online(root)
        shutil.rmtree(drafted.folder, ignore_errors=True)
        return change


def renew_if_due(folder: Path, now: datetime) -> None:
    """Say anew what is newest, if half a day has gone."""
    files = ReleaseFiles(folder)
    if files.repository.renew_due(now):
        with locked(folder):
            files.repository.renew(files.load_online(), now)


def _complete(files: ReleaseFiles, drafted: DraftFolder, now: datetime) -> NoReturn:
    """What a publication that was cut off had left to do."""
    files.repository.renew(files.load_online(), now)
    root = files.repository.root()
    if root is not None:
        files.settle_online(root.signed)
    shutil.rmtree(drafted.folder, ignore_errors=True)
    name = drafted.folder.name
    raise ReleaseError("version", f"Expected an open draft, got {name}, which is published. Nothing is left to do.")


def _with_signatories(files: ReleaseFiles) -> Trusted:
    found = files.trusted()
    if found.root is None:
        raise ReleaseError("root", "Expected signatories of releases, got none yet. Run: fedbank server release keys")
    return found


def _keep(files: ReleaseFiles, name: str, draft: Draft, new: Mapping[str, Path]) -> DraftFolder:
    """The draft as a folder; one of the same name is replaced, since nobody can want both."""
    folder = files.drafts / name
    building = files.drafts / f".{name}"
    shutil.rmtree(building, ignore_errors=True)
    for path, source in new.items():
        target = building / "files" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    DraftFolder(building).write(draft)
    shutil.rmtree(folder, ignore_errors=True)
    building.rename(folder)
    return DraftFolder(folder)


def _until(now: datetime) -> datetime:
    return (now + SIGNED_LIFE).replace(microsecond=0)
