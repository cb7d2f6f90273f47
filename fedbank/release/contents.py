"""What the members' signatures say is there: releases with their files, and which release each channel names.

Targets: ``releases/ID/FILE`` for exactly the four files of a release, ``channel/NAME.json`` for a channel.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tuf.api.metadata import TargetFile, Targets

from fedbank.release.errors import ReleaseError
from fedbank.sealing.canonical import canonical, read_canonical

WEIGHTS, CONFIG, MANIFEST, CARD = "adapter_model.safetensors", "adapter_config.json", "manifest.json", "README.md"
FILES = (WEIGHTS, CONFIG, MANIFEST, CARD)
"""A release has these files and no other."""
MAX_BYTES: Mapping[str, int] = {WEIGHTS: 1 << 32, CONFIG: 1 << 16, MANIFEST: 1 << 20, CARD: 1 << 18}
"""The most that a file of a release may have."""
CHANNELS = ("canary", "stable")
RELEASE_ID = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,93}[a-z0-9])?")
_TAKEN = ("adopted.json", "lock", "root.json", "trust")
"""What else lies where a bank keeps its releases."""
_MAX_CHANNEL_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Channel:
    """What a channel names: ``release``, since its ``seq``-th change. A rollback is a change too."""

    release: str
    seq: int

    def to_bytes(self) -> bytes:
        """The file of the channel."""
        return canonical({"release": self.release, "seq": self.seq})

    @classmethod
    def from_bytes(cls, content: bytes) -> "Channel":
        """The inverse; ``ReleaseError`` for anything else."""
        try:
            if len(content) > _MAX_CHANNEL_BYTES:
                raise ValueError("it is too long")
            said = read_canonical(content)
            release, seq = said["release"], said["seq"]
            if set(said) != {"release", "seq"} or type(seq) is not int or seq < 1:
                raise ValueError("it has other fields")
            check_id(release)
        except (ValueError, KeyError, TypeError) as error:
            raise ReleaseError(
                "channel", f"Expected a channel's release and seq, got something else: {error}"
            ) from error
        return cls(release, seq)


@dataclass(frozen=True, slots=True)
class Contents:
    """``releases``: files per release; ``channels``: the file of each channel; as targets metadata lists them."""

    releases: Mapping[str, Mapping[str, TargetFile]]
    channels: Mapping[str, TargetFile]

    @classmethod
    def of(cls, targets: Targets) -> "Contents":
        """What ``targets`` lists.

        Raises:
            ReleaseError: a path, a hash or a size that no release has, or a delegation.
        """
        if targets.delegations is not None:
            raise ReleaseError("targets", "Expected metadata that delegates to nobody, got a delegation.")
        releases: dict[str, dict[str, TargetFile]] = {}
        channels: dict[str, TargetFile] = {}
        for path, file in targets.targets.items():
            parts = path.split("/")
            most = _MAX_CHANNEL_BYTES
            match parts:
                case ["releases", release, name] if name in FILES:
                    check_id(release)
                    releases.setdefault(release, {})[name], most = file, MAX_BYTES[name]
                case ["channel", name] if name.removesuffix(".json") in CHANNELS and name.endswith(".json"):
                    channels[name.removesuffix(".json")] = file
                case _:
                    raise ReleaseError("targets", f"Expected files of releases and channels, got {path!r:.120}.")
            other = file.unrecognized_fields or type(file.length) is not int
            if file.path != path or set(file.hashes) != {"sha256"} or other or not 0 < file.length <= most:
                raise ReleaseError("targets", f"Expected {path} with a SHA-256 and at most {most} bytes, got others.")
        for release, files in releases.items():
            if set(files) != set(FILES):
                missing = sorted(set(FILES) - set(files))
                raise ReleaseError("targets", f"Expected all files of {release}, got none of {', '.join(missing)}.")
        return cls(releases, channels)


def release_path(release: str, name: str) -> str:
    """The target path of a release's file."""
    return f"releases/{release}/{name}"


def channel_path(name: str) -> str:
    """The target path of a channel."""
    return f"channel/{name}.json"


def check_id(release: object) -> None:
    """``ReleaseError`` unless ``release`` can name a release: it becomes a folder."""
    found = isinstance(release, str) and RELEASE_ID.fullmatch(release) and ".." not in release
    if not found or release in _TAKEN:
        raise ReleaseError(
            "release-id", f"Expected a release named with a-z, 0-9, dots and hyphens, got {str(release)!r:.120}."
        )
