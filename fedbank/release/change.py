"""One change that banks sign: the next metadata, and what exactly it changes as against what is trusted now.

A bank never goes by what a change says of itself: ``read_change`` compares the metadata. Whatever differs beyond one
release, one channel or the signatories is refused.
"""

from collections.abc import Mapping
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

    def sentence(self) -> str:
        """For a person."""
        return f"publish the release {self.release}"


@dataclass(frozen=True, slots=True)
class Moved:
    """A channel names another release. ``before``: ``None`` if it is new."""

    channel: str
    before: Channel | None
    after: Channel

    def sentence(self) -> str:
        """For a person."""
        was = f" instead of {self.before.release}" if self.before else ""
        return f"let the channel {self.channel} name {self.after.release}{was} (its change number {self.after.seq})"


@dataclass(frozen=True, slots=True)
class Reseated:
    """Other signatories: banks that came, went or have a new key, another threshold or online key."""

    before: Signatories | None
    after: Signatories

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


def read_targets_change(
    now: Targets | None, following: Targets, channels: Mapping[str, Channel], after: Channel | None
) -> Published | Moved:
    """What ``following`` changes. ``channels``: what each channel names now; ``after``: the content of the channel file
    that came with the change.

    Raises:
        ReleaseError: it is not the next version, or it changes something else or more.
    """
    _check_version(now.version if now else 0, following.version)
    old, new = Contents.of(now) if now else Contents({}, {}), Contents.of(following)
    if set(following.unrecognized_fields) or (now and following.spec_version != now.spec_version):
        raise _more("it has fields that nobody agreed to")
    for path, file in (now.targets if now else {}).items():
        if path not in following.targets:
            raise _more(f"it takes away {path}")
        if not path.startswith("channel/") and following.targets[path].to_dict() != file.to_dict():
            raise _more(f"it exchanges {path}")
    released = sorted(new.releases.keys() - old.releases.keys())
    moved = [name for name in CHANNELS if name in new.channels and _differs(old, new, name)]
    if len(released) + len(moved) != 1:
        raise _more(f"it publishes {len(released)} releases and moves {len(moved)} channels")
    if released:
        return Published(released[0])
    name = moved[0]
    return _moved(name, channels.get(name), after, new)


def read_root_change(now: Root | None, following: Root) -> Reseated:
    """What ``following`` changes as against ``now`` (``None``: the first root).

    Raises:
        ReleaseError: it is not the next version, or it is of another form or another consortium's.
    """
    _check_version(now.version if now else 0, following.version)
    before, after = Signatories.of(now) if now else None, Signatories.of(following)
    if before and before.consortium != after.consortium:
        raise _more(f"it is about {after.consortium}, not {before.consortium}")
    return Reseated(before, after)


def signed_by(metadata: Metadata[Root] | Metadata[Targets], root: Root, before: Root | None = None) -> list[str]:
    """Names of the banks whose signatures on ``metadata`` are good under ``root``; for a root, under ``before`` too.

    A root needs the threshold of the old banks and of the new ones (TUF 1.0.34, section 5.3.4): a name counts if its
    signature counts for either.
    """
    found: set[str] = set()
    for judge in filter(None, (root, before)):
        role = Root.type if isinstance(metadata.signed, Root) else Targets.type
        names = Signatories.of(judge).names()
        verified = judge.get_verification_result(role, metadata.signed_bytes, metadata.signatures).signed
        found |= {names[keyid] for keyid in verified}
    return sorted(found)


def is_complete(metadata: Metadata[Root] | Metadata[Targets], root: Root, before: Root | None = None) -> bool:
    """Whether enough banks signed; of a root, of the old ones and of the new ones."""
    role = Root.type if isinstance(metadata.signed, Root) else Targets.type
    judges = filter(None, (root, before))
    return all(
        bool(judge.get_verification_result(role, metadata.signed_bytes, metadata.signatures)) for judge in judges
    )


def _next(now: Targets | None, expires: datetime) -> Targets:
    if now is None:
        return Targets(version=1, expires=expires)
    return Targets(version=now.version + 1, expires=expires, targets=dict(now.targets))


def _differs(old: Contents, new: Contents, name: str) -> bool:
    return name not in old.channels or old.channels[name].to_dict() != new.channels[name].to_dict()


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
        raise ReleaseError(
            "version",
            f"Expected a change to version {now + 1}, the next one, got version {following}. If another change came "
            "first, ask the coordinator to propose this one again.",
        )


def _more(what: str) -> ReleaseError:
    return ReleaseError("scope", f"Expected a change of one release, one channel or the signatories, but {what}.")
