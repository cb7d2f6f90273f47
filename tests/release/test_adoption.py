"""Adopting a release: what a bank takes, what it refuses with which figures, and that a refusal changes nothing."""

import json
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
from bank_world import MemberBank, policy
from release_world import World, manifest_of

from fedbank.errors import RunError
from fedbank.release.build import Scores
from fedbank.release.errors import ReleaseError
from fedbank.release.offline import verify_release
from fedbank_client.adoption import check_numbers


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.add("spring-1", channel="stable")
    return made


@pytest.fixture
def bank(world: World, tmp_path: Path) -> MemberBank:
    return MemberBank(world, tmp_path / "member")


def test_a_bank_adopts_what_stable_names_and_then_has_nothing_to_do(bank: MemberBank) -> None:
    said = bank.sync()
    assert said == "Adopted spring-1, signed by bank2, bank3."
    assert bank.adopted == "spring-1"
    assert "is the newest and adopted since" in bank.sync()
    assert [note[0] for note in bank.notes] == ["release-adopted"]
    verify_release(bank.home.of("spring-1"), bank.world.pinned, bank.world.now)


def test_nothing_is_adopted_before_a_channel_names_a_release(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add("spring-1")
    bank = MemberBank(world, tmp_path / "member")
    assert bank.sync() == "The channel stable names no release yet."
    assert bank.adopted is None


def test_what_arrived_waits_for_a_decision_and_is_not_fetched_again(bank: MemberBank, world: World) -> None:
    synced = bank.bring()
    assert synced.said == "spring-1 is here and verified. It is not adopted yet." and not synced.changed
    assert bank.adopted is None and bank.home.stored() == ["spring-1"] and bank.notes == []
    shutil.rmtree(world.folder / "repository" / "targets" / "releases")
    again = bank.bring()
    assert again == synced and again.arrived is not None
    assert bank.adoption().adopt(again.arrived, world.now).said == "Adopted spring-1, signed by bank2, bank3."
    assert bank.adopted == "spring-1" and bank.notes == [("release-adopted", "spring-1", "signed by bank2, bank3")]
    assert bank.bring().arrived is None


def test_a_decision_is_about_what_was_looked_at_and_comes_too_late_for_something_newer(
    bank: MemberBank, world: World
) -> None:
    arrived = bank.bring().arrived
    assert arrived is not None
    world.add("spring-2", channel="stable")
    bank.sync()
    with pytest.raises(ReleaseError, match="Expected nothing newer than spring-1, got spring-2"):
        bank.adoption().adopt(arrived, world.now)
    assert bank.adopted == "spring-2"


def test_what_was_changed_while_a_person_thought_is_not_adopted(bank: MemberBank, world: World) -> None:
    arrived = bank.bring().arrived
    assert arrived is not None
    (bank.home.of("spring-1") / "adapter" / "README.md").write_text("changed", "utf-8")
    with pytest.raises(ReleaseError, match=r"README\.md with the SHA-256"):
        bank.adoption().adopt(arrived, world.now)
    with pytest.raises(ReleaseError, match=r"README\.md with the SHA-256"):
        bank.bring()
    assert bank.adopted is None


@pytest.mark.parametrize("nll", [float("nan"), float("inf")])
def test_an_adapter_that_answers_public_records_with_no_number_stays_out(nll: float, bank: MemberBank) -> None:
    with pytest.raises(ReleaseError, match="Expected an adapter that answers public records with numbers"):
        bank.sync(lambda adapter: check_numbers(Scores("", 1, {"nll": 1.0}, {"nll": nll})))
    assert bank.adopted is None and bank.home.stored() == []
    assert bank.notes[-1][:2] == ("release-refused", "spring-1") and bank.notes[-1][2].startswith("load: ")


def test_the_policy_wins(world: World, tmp_path: Path) -> None:
    other = MemberBank(world, tmp_path / "other", policy(base="0" * 64))
    with pytest.raises(ReleaseError, match=r"a base model that policy\.yaml allows"):
        other.sync()
    narrow = MemberBank(world, tmp_path / "narrow", policy(rank=3))
    with pytest.raises(ReleaseError, match=r"of rank at most 3, as policy\.yaml says, got 4"):
        narrow.sync()
    base = manifest_of("spring-1", 0.5).base["digest"]
    assert MemberBank(world, tmp_path / "fine", policy(base=base)).sync().startswith("Adopted")


@pytest.mark.fault(32)
def test_an_adapter_that_crashes_whoever_loads_it_stays_out(bank: MemberBank) -> None:
    def crash(adapter: Path) -> NoReturn:
        raise ReleaseError("load", "Expected an adapter that loads and answers, got: exit code -11")

    with pytest.raises(ReleaseError, match="exit code -11"):
        bank.sync(crash)
    assert bank.adopted is None and bank.home.stored() == []


def test_a_rollback_is_at_once_and_holds_until_the_channel_changes(bank: MemberBank, world: World) -> None:
    bank.sync()
    world.add("spring-2", value=0.25, channel="stable")
    bank.sync()
    assert bank.adopted == "spring-2"
    began = time.monotonic()
    bank.adoption().roll_back(None, world.now)
    assert time.monotonic() - began < 5, "issue: at most 5 s"
    assert bank.adopted == "spring-1"
    assert bank.sync() == "spring-2 was rolled back here; spring-1 stays. Take it with: --again"
    assert bank.adopted == "spring-1"
    assert bank.sync(again=True).startswith("Adopted spring-2")
    bank.adoption().roll_back("spring-1", world.now)
    world.add("spring-3", value=0.125, channel="stable")
    bank.sync()
    assert bank.adopted == "spring-3"


def test_a_rollback_by_the_members_is_a_change_like_any_other(bank: MemberBank, world: World) -> None:
    world.add("spring-2", channel="stable")
    bank.sync()
    world.move("stable", "spring-1")
    bank.sync()
    adopted = bank.home.adopted()
    assert adopted is not None and (adopted.release, adopted.seq) == ("spring-1", 3)


def test_there_is_no_way_back_to_what_is_not_here(bank: MemberBank) -> None:
    with pytest.raises(RunError, match=r"a release that is here \(none\)"):
        bank.adoption().roll_back(None, bank.world.now)
    bank.sync()
    with pytest.raises(RunError, match=r"a release that is here \(spring-1\), got none before this one"):
        bank.adoption().roll_back(None, bank.world.now)
    with pytest.raises(ReleaseError, match="a release named"):
        bank.home.of("../..")


def test_a_stored_release_that_was_changed_is_not_gone_back_to(bank: MemberBank, world: World) -> None:
    bank.sync()
    world.add("spring-2", channel="stable")
    bank.sync()
    card = bank.home.of("spring-1") / "adapter" / "README.md"
    card.write_text("changed", "utf-8")
    with pytest.raises(ReleaseError, match=r"README\.md with the SHA-256"):
        bank.adoption().roll_back(None, world.now)
    assert bank.adopted == "spring-2"


def test_trust_begins_once(bank: MemberBank, tmp_path: Path) -> None:
    other = World(tmp_path / "other", banks=("bank7", "bank8"))
    with pytest.raises(RunError, match="trusts already, got another one"):
        bank.home.pin(other.pinned)
    bank.home.pin(bank.world.pinned)


@pytest.mark.parametrize(
    "changed",
    [None, {"release": "trust"}, {"release": "a..b"}, {"seq": True}, {"since": 7}, {"channel": []}, {"previous": {}}],
)
def test_a_damaged_word_on_what_is_adopted_says_what_to_do(changed: dict[str, Any] | None, bank: MemberBank) -> None:
    bank.sync()
    path = bank.home.folder / "adopted.json"
    path.write_text("{}" if changed is None else json.dumps(json.loads(path.read_bytes()) | changed))
    with pytest.raises(RunError, match="Delete the file and run: fedbank client sync"):
        bank.sync()
    path.unlink()
    assert bank.sync().startswith("Adopted spring-1")


_SYNC = """
import os, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from bank_world import MemberBank, load
from release_world import FolderFetcher
from fedbank_client.release_home import ReleaseHome
from fedbank_client.home import Home
from fedbank.sealing.keys import SigningKey
from fedbank_client.adoption import Adoption
from bank_world import policy
from datetime import UTC, datetime
folder = Path(sys.argv[1])
home = ReleaseHome(Home(folder / "member", "bank1", "alliance", ("x:1",), SigningKey.derived("coordinator").public))
print("ready", flush=True)

def note(*said):
    with open(folder / "notes", "a") as file:
        print(*said, file=file)

for number in range(1000):
    adoption = Adoption(home, policy(), load, note)
    adoption.sync(FolderFetcher(folder / "repository"), "https://repository", "stable", datetime.now(UTC))
    back = home.adopted()
    if back.previous and back.release == "spring-2":
        adoption.roll_back(None, datetime.now(UTC))
        home.adopt(type(back)(back.previous, back.channel, back.seq - 1, None, back.since))
        home.of("spring-2").rename(folder / f"gone-{os.getpid()}-{number}")  # at once: the next child finds none
"""


@pytest.mark.slow
def test_adoption_is_whole_or_not_at_all_whenever_it_is_killed(bank: MemberBank, world: World, tmp_path: Path) -> None:
    """A process that adopts spring-2 and goes back, again and again, is killed 25 times at random moments."""
    bank.sync()
    world.add("spring-2", value=0.25, channel="stable")
    chance = random.Random(5)
    for _ in range(25):
        child = subprocess.Popen(
            [sys.executable, "-c", _SYNC, str(tmp_path), str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0.0, 0.6))
        child.kill()
        child.wait()
        adopted = bank.adopted
        assert adopted in ("spring-1", "spring-2")
        verify_release(bank.home.of(adopted), world.pinned, world.now)
    notes = (tmp_path / "notes").read_text()
    assert "release-adopted spring-2" in notes and "release-rolled-back spring-1" in notes, "it was at work"
    bank.sync(again=True)
    assert bank.adopted == "spring-2"
    assert not list(bank.home.folder.glob(".spring*")), "nothing half-fetched stays"


@pytest.mark.slow
def test_two_syncs_at_once_are_one_after_the_other(bank: MemberBank, world: World, tmp_path: Path) -> None:
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _SYNC.replace("range(1000)", "range(8)"), str(tmp_path), str(Path(__file__).parent)]
        )
        for _ in range(2)
    ]
    assert [child.wait(timeout=120) for child in children] == [0, 0]
    assert bank.adopted == "spring-1"


def test_an_older_channel_is_refused_even_if_it_came_from_the_members(bank: MemberBank) -> None:
    bank.sync()
    adopted = bank.home.adopted()
    assert adopted is not None
    bank.home.adopt(replace(adopted, seq=7))
    with pytest.raises(ReleaseError, match="Expected change 7 of the channel or a later one, got 1"):
        bank.sync()
