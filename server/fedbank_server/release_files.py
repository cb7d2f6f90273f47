"""Where releases lie in the coordinator's folder, and what counts there now."""

from dataclasses import dataclass
from pathlib import Path

from tuf.api.metadata import Root, TargetFile

from fedbank.errors import RunError
from fedbank.release.change import Trusted
from fedbank.release.contents import Channel, Contents
from fedbank.release.repository import Repository
from fedbank.release.signatories import Signatories
from fedbank.sealing.keys import SigningKey

_RELEASES = "releases"


@dataclass(frozen=True, slots=True)
class ReleaseFiles:
    """Paths of releases in the coordinator's ``folder``."""

    folder: Path

    @property
    def repository(self) -> Repository:
        """What members fetch from."""
        return Repository(self.folder / _RELEASES / "repository")

    @property
    def drafts(self) -> Path:
        """Every draft in a folder of its own."""
        return self.folder / _RELEASES / "drafts"

    @property
    def online_key(self) -> Path:
        """The key of snapshot and timestamp."""
        return self.folder / _RELEASES / "online.key"

    @property
    def next_online_key(self) -> Path:
        """The one that a draft asks for. Until its root counts, the other one signs."""
        return self.folder / _RELEASES / "online.next.key"

    def online_for(self, root: Root | None) -> SigningKey:
        """The online key that ``root`` names; made at its first use, before there is a root.

        Raises:
            RunError: it is not here.
        """
        if root is None:
            return _made(self.online_key)
        wanted = Signatories.of(root).online
        for path in (self.online_key, self.next_online_key):
            if path.exists() and (key := SigningKey.load(path)).public.raw == wanted.raw:
                return key
        raise RunError(
            f"Expected the online key that the members' root names ({wanted.hex()[:16]}) in {self.online_key}, got "
            "none or another. Restore it from a backup, or let the members sign a new one: fedbank server release keys "
            "--new-online-key"
        )

    def load_online(self) -> SigningKey:
        """The online key that counts now; as ``online_for``."""
        root = self.repository.root()
        return self.online_for(root.signed if root else None)

    def make_next_online(self) -> SigningKey:
        """A new online key, for a root that the members still have to sign."""
        self.next_online_key.unlink(missing_ok=True)
        return _made(self.next_online_key)

    def settle_online(self, root: Root) -> None:
        """Where ``root`` counts: put its online key in the place of the one before."""
        if self.next_online_key.exists():
            key = SigningKey.load(self.next_online_key)
            if key.public.raw == Signatories.of(root).online.raw:
                self.next_online_key.replace(self.online_key)

    def trusted(self) -> Trusted:
        """What counts now."""
        root, targets = self.repository.root(), self.repository.current()
        channels = {}
        if targets is not None:
            listed = Contents.of(targets.signed).channels
            channels = {name: _channel(self.repository, file) for name, file in listed.items()}
        return Trusted(root.signed if root else None, targets.signed if targets else None, channels)


def _made(path: Path) -> SigningKey:
    if not path.exists():
        SigningKey.generate().save(path)
    return SigningKey.load(path)


def _channel(repository: Repository, listed: TargetFile) -> Channel:
    return Channel.from_bytes(repository.path_of(listed).read_bytes())
