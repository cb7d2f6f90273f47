"""A member bank that has adopted a release, as a service finds it: for a made-up base model, or for the tiny one."""

import hashlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "release"))
from bank_world import MemberBank
from release_world import World
from tiny_release import write_tiny_release

from fedbank.sealing.keys import SigningKey
from fedbank_client.home import Home, write_home
from fedbank_client.policy import POLICY, TEMPLATE
from fedbank_client.serving.source import BaseFolder, ReleaseSource

__all__ = ["MemberBank", "World", "bank_home", "base_folder", "publish_tiny", "source_of", "tiny_bank"]


def base_folder(folder: Path, content: bytes = b"base") -> BaseFolder:
    """The base model of ``release_world``: one file, whose SHA-256 is its digest."""
    folder.mkdir(exist_ok=True)
    (folder / "model").write_bytes(content)
    return BaseFolder(folder, lambda path: hashlib.sha256((path / "model").read_bytes()).hexdigest())


def source_of(bank: MemberBank, base: BaseFolder) -> ReleaseSource:
    return ReleaseSource(bank.home, base)


def publish_tiny(world: World, name: str) -> None:
    """A release for the model that ships with FedBank, in the stable channel."""
    made = world.folder / "made" / name
    write_tiny_release(made)
    change, files = world.release_change(made)
    world.publish(change, ("bank1", "bank2"), files)
    world.move("stable", name)


def bank_home(folder: Path) -> Home:
    """The folder of a bank with its signing key and its policy."""
    home = Home(folder, "bank1", "alliance", ("localhost:1",), SigningKey.derived("coordinator").public)
    folder.mkdir(parents=True, exist_ok=True)
    write_home(home, folder)
    (folder / POLICY).write_text(TEMPLATE, "utf-8")
    SigningKey.derived("bank1", "signing").save(home.signing_key)
    return home


def tiny_bank(folder: Path, *, adopted: bool = True) -> tuple[World, MemberBank, Home]:
    """The members' world with the release tiny-1, and a bank that has adopted it (or could)."""
    world = World(folder)
    publish_tiny(world, "tiny-1")
    home = bank_home(folder / "member")
    bank = MemberBank(world, home.folder)
    if adopted:
        bank.sync()
    return world, bank, home
