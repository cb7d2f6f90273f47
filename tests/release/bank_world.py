"""A member bank beside the world of releases: its folder, its policy, and a load that reads the weights itself."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from release_world import FolderFetcher, World
from safetensors.numpy import load_file

from fedbank.release.contents import WEIGHTS
from fedbank.sealing.keys import SigningKey
from fedbank_client.adoption import Adoption, Synced
from fedbank_client.home import Home
from fedbank_client.policy import Policy
from fedbank_client.release_home import ReleaseHome

URL = "https://repository"


def policy(base: str | None = None, rank: int = 16) -> Policy:
    digests = (base,) if base else "any"
    return Policy(8.0, 8.0, 1e-5, "customer", rank, 1000, digests, None, "UTC", True)  # type: ignore[arg-type]


def load(adapter: Path) -> None:
    """An adapter loads if its weights can be read."""
    tensors = load_file(adapter / WEIGHTS)
    assert all(np.isfinite(tensor).all() for tensor in tensors.values())


class MemberBank:
    """A bank in ``folder`` that begins with the world's first root."""

    def __init__(self, world: World, folder: Path, chosen: Policy | None = None) -> None:
        self.world = world
        home = Home(folder, "bank1", "alliance", ("localhost:1",), SigningKey.derived("coordinator").public)
        folder.mkdir(parents=True, exist_ok=True)
        self.home, self.notes = ReleaseHome(home), list[tuple[str, str, str]]()
        self.policy = chosen or policy()
        with self.home.exclusive():
            self.home.pin(world.pinned)

    def adoption(self, loader: Callable[[Path], None] = load) -> Adoption:
        return Adoption(self.home, self.policy, loader, lambda *note: self.notes.append(note))

    def sync(self, loader: Callable[[Path], None] = load, **options: bool) -> str:
        """What ``client sync --yes`` does."""
        fetcher = FolderFetcher(self.world.folder / "repository")
        return self.adoption(loader).sync(fetcher, URL, "stable", self.world.now, **options).said

    def bring(self, loader: Callable[[Path], None] = load) -> Synced:
        """What ``client sync`` does before a person decides."""
        return self.adoption(loader).bring(
            FolderFetcher(self.world.folder / "repository"), URL, "stable", self.world.now
        )

    @property
    def adopted(self) -> str | None:
        found = self.home.adopted()
        return found.release if found else None
