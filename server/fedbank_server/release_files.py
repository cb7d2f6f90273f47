"""Where releases lie in the coordinator's folder, and what counts there now."""

from dataclasses import dataclass
from pathlib import Path

from tuf.api.metadata import TargetFile

from fedbank.release.change import Trusted
from fedbank.release.contents import Channel, Contents
from fedbank.release.repository import Repository
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

    def load_online(self) -> SigningKey:
        """The online key; made at its first use."""
        if not self.online_key.exists():
            SigningKey.generate().save(self.online_key)
        return SigningKey.load(self.online_key)

    def trusted(self) -> Trusted:
        """What counts now."""
        root, targets = self.repository.root(), self.repository.current()
        channels = {}
        if targets is not None:
            listed = Contents.of(targets.signed).channels
            channels = {name: _channel(self.repository, file) for name, file in listed.items()}
        return Trusted(root.signed if root else None, targets.signed if targets else None, channels)


def _channel(repository: Repository, listed: TargetFile) -> Channel:
    return Channel.from_bytes(repository.path_of(listed).read_bytes())
