"""What doctor says of releases: how long what was signed still holds, and keys that others can read."""

from datetime import timedelta
from pathlib import Path

import pytest
from bank_world import MemberBank
from release_world import World

from fedbank.membership.health import FAIL, OK, WARN
from fedbank.release.errors import ReleaseError
from fedbank.release.health import standing
from fedbank.sealing.keys import SigningKey
from fedbank_client.doctor import examine
from fedbank_client.home import Home


def lines(world: World, days: float) -> dict[str, tuple[str, str]]:
    """What is said so many days from now, by its subject."""
    root, targets = world.repository.root(), world.repository.current()
    assert root is not None and targets is not None
    timestamp = world.repository.metadata / "timestamp.json"
    found = standing(root.signed, targets.signed, timestamp, world.now + timedelta(days=days), "Do this")
    return {finding.subject: (finding.level, finding.message) for finding in found}


@pytest.mark.parametrize(
    ("days", "signed", "newest"), [(0, OK, OK), (2, OK, WARN), (330, OK, WARN), (340, WARN, WARN), (400, WARN, WARN)]
)
def test_an_end_that_comes_is_told_before(tmp_path: Path, days: float, signed: str, newest: str) -> None:
    world = World(tmp_path)
    world.add("spring-1", channel="stable")
    said = lines(world, days)
    assert said["releases: root"][0] == said["releases: targets"][0] == signed
    assert said["releases: newest"][0] == newest
    if signed == WARN:
        assert "fedbank server release keys" in said["releases: root"][1]
    if newest == WARN:
        assert said["releases: newest"][1].endswith("Do this")


def test_before_the_first_release_there_is_only_a_root(tmp_path: Path) -> None:
    world = World(tmp_path)
    root = world.repository.root()
    assert root is not None
    missing = world.repository.metadata / "timestamp.json"
    assert [finding.subject for finding in standing(root.signed, None, missing, world.now, "")] == ["releases: root"]


def test_a_damaged_word_on_what_is_newest_is_named(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add("spring-1")
    (world.repository.metadata / "timestamp.json").write_bytes(b"{}")
    with pytest.raises(ReleaseError, match="Expected TUF metadata"):
        lines(world, 0)


def findings(home: Home, world: World) -> dict[str, tuple[str, str]]:
    """Of the bank's doctor."""
    return {found.subject: (found.level, found.message) for found in examine(home, lambda: world.now, reach=False)}


def test_a_bank_is_told_what_it_adopted_and_until_when_that_is_vouched_for(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add("spring-1", channel="stable")
    bank = MemberBank(world, tmp_path / "bank")
    assert findings(bank.home.home, world)["releases"] == (OK, "none is adopted")
    bank.sync()
    said = findings(bank.home.home, world)
    assert said["releases"][1].startswith("spring-1 is adopted since ")
    assert {"releases: root", "releases: targets", "releases: newest"} <= said.keys()


def test_a_release_key_that_others_can_read_is_told(tmp_path: Path) -> None:
    world = World(tmp_path)
    bank = MemberBank(world, tmp_path / "bank")
    home = bank.home.home
    assert home.release_key not in home.secrets()
    home.release_key.parent.mkdir(exist_ok=True)
    SigningKey.generate().save(home.release_key)
    assert findings(home, world)["release.key"][0] == OK
    home.release_key.chmod(0o644)
    level, said = findings(home, world)["release.key"]
    assert level == FAIL and "chmod 600" in said
