"""What a bank keeps of releases, in ``releases/`` of its folder, and which one it has adopted.

``adopted.json`` is the one word on that: it is replaced whole or not at all, after the folder it names is on disk.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tuf.api.metadata import Metadata, Root, Targets

from fedbank.durable import open_locked, write_atomic
from fedbank.errors import RunError
from fedbank.release.change import Trusted
from fedbank.release.contents import CHANNELS, Channel, Contents, check_id
from fedbank.release.errors import ReleaseError
from fedbank.release.trust import MAX_ROOT_BYTES, MAX_TARGETS_BYTES, first_root, read_metadata
from fedbank_client.home import Home

_MAX_POINTER = 4096


@dataclass(frozen=True, slots=True)
class Adopted:
    """The release that this bank serves. ``seq``: the channel's change that brought it, or that a rollback set aside.

    ``previous``: what was adopted before it, where there is one. ``since``: UTC.
    """

    release: str
    channel: str
    seq: int
    previous: str | None
    since: str


@dataclass(frozen=True, slots=True)
class ReleaseHome:
    """Paths of releases in the bank's ``home``."""

    home: Home

    @property
    def folder(self) -> Path:
        """Everything about releases."""
        return self.home.folder / "releases"

    @property
    def root(self) -> Path:
        """The first root: where this bank's trust begins. Written once."""
        return self.folder / "root.json"

    @property
    def trust(self) -> Path:
        """The newest metadata that was verified."""
        return self.folder / "trust"

    def of(self, release: str) -> Path:
        """A release with its signatures."""
        check_id(release)
        return self.folder / release

    def pinned_root(self) -> bytes:
        """The first root; ``RunError`` if this bank trusts none yet."""
        if not self.root.exists():
            raise RunError(
                f"Expected the members' first root in {self.root}, got none. Get the file from the coordinator, "
                "compare its SHA-256 with another member, then run: fedbank client release trust FILE"
            )
        return self.root.read_bytes()

    def pin(self, content: bytes) -> None:
        """Let trust begin with ``content``; ``RunError`` if it begins elsewhere already."""
        if len(content) > MAX_ROOT_BYTES:
            raise ReleaseError("root", f"Expected a root of at most {MAX_ROOT_BYTES} bytes, got more.")
        first_root(content)
        if self.root.exists() and self.root.read_bytes() != content:
            raise RunError(f"Expected the root that {self.home.bank} trusts already, got another one. Ask the members.")
        write_atomic(self.root, content)

    def trusted(self) -> Trusted:
        """What this bank has verified last; nothing before its first root."""
        newest, targets = self.trust / "root.json", self.trust / "targets.json"
        root = newest if newest.exists() else self.root
        if not root.exists():
            return Trusted(None, None, {})
        read_root: Metadata[Root] = read_metadata(root.read_bytes(), Root, MAX_ROOT_BYTES)
        if not targets.exists():
            return Trusted(read_root.signed, None, {})
        read_targets: Metadata[Targets] = read_metadata(targets.read_bytes(), Targets, MAX_TARGETS_BYTES)
        channels = {}
        for name in CHANNELS:
            path = self.trust / "channels" / f"{name}.json"
            if name in Contents.of(read_targets.signed).channels and path.exists():
                channels[name] = Channel.from_bytes(path.read_bytes())
        return Trusted(read_root.signed, read_targets.signed, channels)

    def adopted(self) -> Adopted | None:
        """What is adopted; ``None`` before the first. ``RunError`` if the file is damaged."""
        path = self.folder / "adopted.json"
        try:
            content = path.read_bytes() if path.exists() else None
            found = Adopted(**json.loads(content[:_MAX_POINTER])) if content is not None else None
            if found is not None:
                texts = [
                    found.release,
                    found.channel,
                    found.since,
                    *([] if found.previous is None else [found.previous]),
                ]
                if type(found.seq) is not int or not all(isinstance(text, str) for text in texts):
                    raise ValueError
                check_id(found.release)
        except (ReleaseError, IsADirectoryError, ValueError, TypeError, RecursionError) as error:
            raise RunError(
                f"Expected the adopted release in {path}, got something else. Delete the file and run: fedbank client "
                "sync"
            ) from error
        return found

    def adopt(self, adopted: Adopted) -> None:
        """From here on ``adopted`` is what this bank serves."""
        write_atomic(self.folder / "adopted.json", json.dumps(asdict(adopted), sort_keys=True).encode())

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """One sync, review or rollback at a time; ``RunError`` if another one runs."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        try:
            with open_locked(self.folder / "lock", write=True, patience_s=10.0):
                yield
        except TimeoutError:
            raise RunError(
                "Expected no other command about releases in this folder, got one that runs. Wait for its end, or "
                "stop it: what is adopted stays."
            ) from None

    def stored(self) -> list[str]:
        """Releases that are here, adopted now or before."""
        return sorted(path.parent.name for path in self.folder.glob("[!.]*/adapter"))
