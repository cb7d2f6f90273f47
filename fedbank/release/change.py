"""One change that banks sign: the next metadata, and what exactly it changes as against what is trusted now.

A bank never goes by what a draft says of itself: ``read_change`` compares the metadata. Whatever differs beyond one
release, one channel or the signatories is refused.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from fedbank.release.contents import CHANNELS, Channel, Contents, channel_path
from fedbank.release.errors import ReleaseError
from fedbank.release.signatories import Signatories


@dataclass(frozen=True, slots=True)
class Published:
    """A release is there that was not; no channel names it yet."""

    release: str

    @property
    def about(self) -> str:
        """What evidence names."""
        return self.release

    def sentence(self) -> str:
        """For a person."""
        return f"publish the release {self.release}"


@dataclass(frozen=True, slots=True)
class Moved:
    """A channel names another release. ``before``: ``None`` if it is new."""

    channel: str
    before: Channel | None
    after: Channel

    @property
    def about(self) -> str:
        """What evidence names."""
        return self.after.release

    def sentence(self) -> str:
        """For a person."""
        was = f" instead of {self.before.release}" if self.before else ""
        return f"let the channel {self.channel} name {self.after.release}{was} (its change number {self.after.seq})"


@dataclass(frozen=True, slots=True)
class Reseated:
    """Other signatories: banks that came, went or have a new key, another threshold or online key."""

    before: Signatories | None
    after: Signatories

    @property
    def about(self) -> str:
        """What evidence names."""
        return "signatories"

    def sentence(self) -> str:
        """For a person."""
        if self.before is None:
            names = ", ".join(sorted(self.after.banks))
            return f"begin with the signatories {names}, of whom {self.after.threshold} sign a change"
        old, new = self.before.banks, self.after.banks
        parts = [f"add {bank}" for bank in sorted(new.keys() - old.keys())]
        parts += [f"remove {bank}" for bank in sorted(old.keys() - new.keys())]
        parts += [f"give {bank} another key" for bank in sorted(old.keys() & new.keys()) if old[bank] != new[bank]]
        if self.before.threshold != self.after.threshold:
            parts.append(f"ask for {self.after.threshold} signatures instead of {self.before.threshold}")
        if self.before.online != self.after.online:
            parts.append("give the coordinator another online key")
        return "; ".join(parts) or "sign the same signatories anew, for longer"


Change = Published | Moved | Reseated


def anew(now: Targets | None, expires: datetime) -> Targets | None:
    """The same, to be signed again."""
    return _next(now, expires) if now is not None else None


def with_release(now: Targets | None, files: Mapping[str, TargetFile], expires: datetime) -> Targets:
    """The next targets: ``files`` (by target path, all of one release) are there as well."""
    following = _next(now, expires)
    following.targets.update(files)
    return following


def with_channel(now: Targets, name: str, after: Channel, expires: datetime) -> Targets:
    """The next targets: the channel ``name`` is ``after``."""
    following = _next(now, expires)
    path = channel_path(name)
    following.targets[path] = TargetFile.from_data(path, after.to_bytes(), ["sha256"])
    return following


@dataclass(frozen=True, slots=True)
class Draft:
    """The next metadata, which banks are asked to sign: targets; or a root, with the targets signed anew under it.

    Whoever leaves takes its signature along, so that a new root without new targets could leave nothing valid.
    """

    root: Metadata[Root] | None
    targets: Metadata[Targets] | None

    def parts(self) -> list[Metadata[Root] | Metadata[Targets]]:
        """What there is to sign."""
        return [part for part in (self.root, self.targets) if part is not None]


@dataclass(frozen=True, slots=True)
class Trusted:
    """What counts now; ``None``: nothing yet. ``channels``: what each channel names."""

    root: Root | None
    targets: Targets | None
    channels: Mapping[str, Channel]


def read_change(now: Trusted, draft: Draft, after: Channel | None = None) -> Change:
    """What ``draft`` changes. ``after``: the content of the channel file that came with it.

    Raises:
        ReleaseError: it is not the next version, or it changes something else or more.
    """
    if draft.root is not None:
        return _read_reseating(now, draft.root.signed, draft.targets.signed if draft.targets else None)
    if now.root is None or draft.targets is None:
        raise _more("there are no signatories yet")
    following = draft.targets.signed
    _check_version(now.targets.version if now.targets else 0, following.version)
    old = Contents.of(now.targets) if now.targets else Contents({}, {})
    new = Contents.of(following)
    _check_kept(now.targets, following)
    released = sorted(new.releases.keys() - old.releases.keys())
    moved = [name for name in CHANNELS if name in new.channels and _differs(old, new, name)]
    if len(released) + len(moved) != 1:
        raise _more(f"it publishes {len(released)} releases and moves {len(moved)} channels")
    return Published(released[0]) if released else _moved(moved[0], now.channels.get(moved[0]), after, new)


def signed_by(draft: Draft, now: Root | None) -> list[str]:
    """Names of the banks that signed every part of ``draft`` that is theirs to sign, under the root that counts now and
    the draft's own.
    """
    names: dict[str, bool] = {}
    for part, judges in _judged(draft, now):
        holders: dict[str, str] = {}
        good: set[str] = set()
        for judge in judges:
            holders |= Signatories.of(judge).names()
            good |= set(judge.get_verification_result(part.signed.type, part.signed_bytes, part.signatures).signed)
        for keyid, bank in holders.items():
            names[bank] = names.get(bank, True) and keyid in good
    return sorted(bank for bank, signed in names.items() if signed)


def shortfall(draft: Draft, now: Root | None) -> str:
    """For a person: what a draft that is not complete lacks, of the banks that sign today and of those that will."""
    if draft.root is None or now is None:
        judge, signers = draft.root.signed if draft.root is not None else now, signed_by(draft, now)
        assert judge is not None
        needed = Signatories.of(judge).threshold
        return f"Expected signatures of {needed} banks, got {len(signers)} ({', '.join(signers) or 'none'})."
    said = []
    for judge, which in ((now, "who sign today"), (draft.root.signed, "of the new ones")):
        found = judge.get_verification_result(Root.type, draft.root.signed_bytes, draft.root.signatures)
        names = Signatories.of(judge).names()
        signed = ", ".join(sorted(names[keyid] for keyid in found.signed)) or "none"
        said.append(f"{found.threshold} {which} ({', '.join(sorted(names.values()))}; got {signed})")
    return (
        f"Expected signatures of {' and '.join(said)}. A bank that gets another key signs with the old one too, "
        "where it has it: --key FILE."
    )


def is_complete(draft: Draft, now: Root | None) -> bool:
    """Whether enough banks signed every part; a root, of the old banks and of the new (TUF 1.0.34, section 5.3.4)."""
    return all(
        bool(judge.get_verification_result(part.signed.type, part.signed_bytes, part.signatures))
        for part, judges in _judged(draft, now)
        for judge in judges
    )


def _judged(draft: Draft, now: Root | None) -> Iterator[tuple[Metadata[Root] | Metadata[Targets], list[Root]]]:
    """Every part with the roots that judge it."""
    newest = draft.root.signed if draft.root is not None else now
    if draft.root is not None:
        yield draft.root, [judge for judge in (now, draft.root.signed) if judge is not None]
    if draft.targets is not None and newest is not None:
        yield draft.targets, [newest]


def _read_reseating(now: Trusted, root: Root, targets: Targets | None) -> Reseated:
    _check_version(now.root.version if now.root else 0, root.version)
    before, after = Signatories.of(now.root) if now.root else None, Signatories.of(root)
    if before and before.consortium != after.consortium:
        raise _more(f"it is about {after.consortium}, not {before.consortium}")
    if (targets is None) != (now.targets is None):
        raise _more("the releases that are there are not signed anew with it")
    if targets is not None and now.targets is not None:
        _check_version(now.targets.version, targets.version)
        _check_kept(now.targets, targets)
        if targets.targets != now.targets.targets:
            raise _more("it changes releases or channels too")
    return Reseated(before, after)


def _check_kept(now: Targets | None, following: Targets) -> None:
    """Nothing that was there is gone or exchanged, but for channels."""
    if following.unrecognized_fields:
        raise _more("it has fields that nobody agreed to")
    for path, file in (now.targets if now else {}).items():
        if path not in following.targets:
            raise _more(f"it takes away {path}")
        if not path.startswith("channel/") and following.targets[path] != file:
            raise _more(f"it exchanges {path}")


def _next(now: Targets | None, expires: datetime) -> Targets:
    if now is None:
        return Targets(version=1, expires=expires)
    return Targets(version=now.version + 1, expires=expires, targets=dict(now.targets))


def _differs(old: Contents, new: Contents, name: str) -> bool:
    return name not in old.channels or old.channels[name] != new.channels[name]


def _moved(name: str, before: Channel | None, after: Channel | None, new: Contents) -> Moved:
    if after is None or TargetFile.from_data(channel_path(name), after.to_bytes(), ["sha256"]) != new.channels[name]:
        raise ReleaseError("channel", f"Expected the file of the channel {name} as the metadata lists it, got another.")
    expected = (before.seq if before else 0) + 1
    if after.seq != expected:
        raise ReleaseError("channel", f"Expected change {expected} of the channel {name}, got {after.seq}.")
    if after.release not in new.releases:
        raise ReleaseError("channel", f"Expected the channel {name} to name a release, got {after.release!r}.")
    return Moved(name, before, after)


def _check_version(now: int, following: int) -> None:
    if following != now + 1:
        remedy = "If another change came first, ask the coordinator to propose this one again."
        if following > now + 1:
            remedy = "A change before it is not known here: run fedbank client sync, where the coordinator answers."
        raise ReleaseError(
            "version", f"Expected a change to version {now + 1}, the next one, got version {following}. {remedy}"
        )


def _more(what: str) -> ReleaseError:
    return ReleaseError("scope", f"Expected a change of one release, one channel or the signatories, but {what}.")
