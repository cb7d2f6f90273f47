"""The coordinator's repository: static files that members fetch.

A change counts from the moment at which ``committed/`` holds it, and for members from the timestamp that names it,
which is written last. ``metadata/``: ``N.root.json``, ``N.targets.json``, ``N.snapshot.json`` and ``timestamp.json``;
``targets/``: every file under its SHA-256 (TUF 1.0.34, section 6.2, consistent snapshots). Older versions of targets
and snapshot are removed.
"""

import os
import shutil
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from fedbank.durable import sync_folder, write_atomic
from fedbank.release.change import Draft, is_complete
from fedbank.release.errors import ReleaseError
from fedbank.release.signatories import KeySigner
from fedbank.release.trust import MAX_ROOT_BYTES, first_root, follow_roots, read_metadata, trusted_targets
from fedbank.sealing.keys import SigningKey

TIMESTAMP_LIFE, SNAPSHOT_LIFE = timedelta(hours=24), timedelta(days=7)
SIGNED_LIFE = timedelta(days=365)
"""How long what banks signed is valid."""
_KEPT = 3
_SERIALIZER = JSONSerializer(compact=True, validate=True)


class Repository:
    """The repository in ``folder``. Whoever changes it holds the coordinator's lock."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.metadata, self.targets = folder, folder / "metadata", folder / "targets"
        self.committed = folder / "committed"

    def root(self) -> Metadata[Root] | None:
        """The newest root, followed from the first; ``None`` before the first."""
        chain = [path.read_bytes() for path in self._versions(Root.type)]
        return follow_roots(first_root(chain[0]), chain[1:]) if chain else None

    def first_root(self) -> bytes | None:
        """What a bank that joins pins; ``None`` before there is one."""
        paths = self._versions(Root.type)
        return paths[0].read_bytes() if paths else None

    def current(self) -> Metadata[Targets] | None:
        """The newest targets that the members signed; ``None`` before the first."""
        root, path = self.root(), self._newest(Targets.type)
        return trusted_targets(root, path.read_bytes()) if root and path else None

    def path_of(self, file: TargetFile) -> Path:
        """Where a listed file lies."""
        name = file.path.rpartition("/")
        return self.targets / name[0] / f"{file.hashes['sha256']}.{name[2]}"

    def publish(self, draft: Draft, files: Mapping[str, Path], online: SigningKey, now: datetime) -> None:
        """Put a change that enough banks signed in place, with its new files by target path.

        Killed before ``committed`` is there, nothing has changed; from then on the change counts here, and whatever
        writes next (``renew``, which the server does by itself) hands it out.

        Raises:
            ReleaseError: too few signatures; nothing was changed.
        """
        self._hand_out()
        before = self.root()
        if not is_complete(draft, before.signed if before else None):
            raise ReleaseError("signatures", "Expected a change that enough banks signed, got one that too few signed.")
        if draft.targets is not None:
            for path, source in files.items():
                listed = draft.targets.signed.targets[path]
                _copy(source, self.path_of(listed), listed)
        self._commit(draft)
        self.renew(online, now)
        self._forget_old()

    def holds(self, draft: Draft) -> bool:
        """Whether everything in ``draft`` counts already."""
        found = (self.root(), self.current())
        return all(any(part.signed == other.signed for other in found if other is not None) for part in draft.parts())

    def renew(self, online: SigningKey, now: datetime) -> None:
        """Hand out what is committed, and say anew, for another day, what is newest, once there are targets."""
        self._hand_out()
        newest = self._newest(Targets.type)
        if newest is not None:
            self._announce(_version(newest), online, now)
        shutil.rmtree(self.committed, ignore_errors=True)

    def _announce(self, targets: int, online: SigningKey, now: datetime) -> None:
        snapshot = self._snapshot(targets, online, now)
        path = self.metadata / "timestamp.json"
        last = read_metadata(path.read_bytes(), Timestamp, MAX_ROOT_BYTES).signed.version if path.exists() else 0
        meta = MetaFile(version=snapshot)
        said = Timestamp(last + 1, expires=_seconds(now + TIMESTAMP_LIFE), snapshot_meta=meta)
        self._write(path, Metadata(said), online)

    def renew_due(self, now: datetime) -> bool:
        """Whether half of the timestamp's life is over, or a change was committed and not handed out."""
        path = self.metadata / "timestamp.json"
        if self.committed.exists():
            return True
        if not path.exists():
            return self._newest(Targets.type) is not None
        expires = read_metadata(path.read_bytes(), Timestamp, MAX_ROOT_BYTES).signed.expires
        return expires - now < TIMESTAMP_LIFE / 2

    def _commit(self, draft: Draft) -> None:
        """All of the draft at once: a root whose targets are lost, or the reverse, would leave nothing valid."""
        building = self.folder / ".committed"
        shutil.rmtree(building, ignore_errors=True)
        for part in draft.parts():
            write_atomic(building / f"{part.signed.version}.{part.signed.type}.json", part.to_bytes(_SERIALIZER))
        shutil.rmtree(self.committed, ignore_errors=True)
        building.rename(self.committed)
        sync_folder(self.folder)

    def _hand_out(self) -> None:
        """Where members fetch it; nothing refers to the targets before the root is there."""
        for path in sorted(self.committed.glob("*.json"), key=lambda path: path.name.endswith(".root.json")):
            write_atomic(self.metadata / path.name, path.read_bytes())

    def _snapshot(self, targets: int, online: SigningKey, now: datetime) -> int:
        """The version of a snapshot that names ``targets`` and lives long enough: the newest one, or one more."""
        newest, last = self._newest(Snapshot.type), 0
        if newest is not None:
            signed = read_metadata(newest.read_bytes(), Snapshot, MAX_ROOT_BYTES).signed
            last = signed.version
            if signed.meta["targets.json"].version == targets and signed.expires - now > SNAPSHOT_LIFE / 2:
                return last
        following = Snapshot(
            last + 1,
            expires=_seconds(now + SNAPSHOT_LIFE),
            meta={"targets.json": MetaFile(version=targets)},
        )
        self._write(self.metadata / f"{following.version}.snapshot.json", Metadata(following), online)
        return following.version

    def _write(self, path: Path, metadata: Metadata[Snapshot] | Metadata[Timestamp], online: SigningKey) -> None:
        metadata.sign(KeySigner(online))
        write_atomic(path, metadata.to_bytes(_SERIALIZER))

    def _versions(self, kind: str) -> list[Path]:
        found = {
            path.name: path for folder in (self.metadata, self.committed) for path in folder.glob(f"*.{kind}.json")
        }
        return sorted(found.values(), key=_version)

    def _newest(self, kind: str) -> Path | None:
        return next(reversed(self._versions(kind)), None)

    def _forget_old(self) -> None:
        """Members that are in the middle of fetching find the last few versions; roots stay for ever."""
        for kind in (Targets.type, Snapshot.type):
            for path in self._versions(kind)[:-_KEPT]:
                path.unlink(missing_ok=True)


def _copy(source: Path, target: Path, listed: TargetFile) -> None:
    with source.open("rb") as file:
        listed.verify_length_and_hashes(file)
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}")
    shutil.copyfile(source, beside)
    with beside.open("rb+") as file:
        os.fsync(file.fileno())
    beside.replace(target)
    sync_folder(target.parent)


def _version(path: Path) -> int:
    return int(path.name.partition(".")[0])


def _seconds(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)
