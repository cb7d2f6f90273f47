"""In which order a bank adopts: what is looked at before what, and what is on disk before anything names it."""

import fcntl
import shutil
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import pytest
from bank_world import MemberBank, load, policy
from release_world import World

from fedbank.release.errors import ReleaseError
from fedbank.release.offline import verify_release


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.add("spring-1", channel="stable")
    return made


@pytest.fixture
def bank(world: World, tmp_path: Path) -> MemberBank:
    return MemberBank(world, tmp_path / "member")


def test_one_command_at_a_time_from_the_first_look_to_the_last_word(bank: MemberBank, world: World) -> None:
    tried: list[str] = []

    def is_locked() -> bool:
        with (bank.home.folder / "lock").open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    class Watched(list[tuple[str, str, str]]):
        def append(self, note: tuple[str, str, str]) -> None:
            assert is_locked(), f"somebody else could begin before {note[0]}"
            tried.append(note[0])

    bank.notes = Watched()
    bank.sync()
    world.add("spring-2", value=0.25, channel="stable")
    bank.sync()
    bank.adoption().roll_back(None, world.now)
    assert tried == ["release-adopted", "release-adopted", "release-rolled-back"] and not is_locked()


def test_the_policy_is_asked_before_anything_is_loaded(world: World, tmp_path: Path) -> None:
    def never(adapter: Path) -> NoReturn:
        raise AssertionError("a release that the policy refuses was loaded")

    narrow = MemberBank(world, tmp_path / "narrow", policy(rank=3))
    with pytest.raises(ReleaseError, match="of rank at most 3"):
        narrow.sync(never)


def test_what_is_loaded_was_verified_before_and_lies_apart_from_what_is_adopted(bank: MemberBank) -> None:
    seen: list[tuple[str, list[str]]] = []

    def look(adapter: Path) -> None:
        seen.append((adapter.parent.name, bank.home.stored()))
        load(adapter)

    bank.sync(look)
    assert seen == [(".spring-1", [])] and bank.home.stored() == ["spring-1"]


def test_nothing_is_adopted_that_the_evidence_does_not_hold(bank: MemberBank, world: World) -> None:
    """The disk is full as the evidence is written; the next sync finds the folder, verifies it again and adopts it."""
    bank.sync()
    world.add("spring-2", value=0.25, channel="stable")
    kept = bank.notes

    class Full(list[tuple[str, str, str]]):
        def append(self, note: tuple[str, str, str]) -> None:
            raise OSError("no space left")

    bank.notes = Full()
    with pytest.raises(OSError, match="no space left"):
        bank.sync()
    with pytest.raises(OSError, match="no space left"):
        bank.sync(again=True)
    assert bank.adopted == "spring-1" and bank.home.stored() == ["spring-1", "spring-2"]
    bank.notes = kept
    card = bank.home.of("spring-2") / "adapter" / "README.md"
    content = card.read_bytes()
    card.write_bytes(b"changed meanwhile")
    with pytest.raises(ReleaseError, match=r"README\.md with the SHA-256"):
        bank.sync()
    card.write_bytes(content)
    assert bank.sync().startswith("Adopted spring-2")


def test_a_release_in_anothers_place_is_not_gone_back_to(bank: MemberBank, world: World) -> None:
    bank.sync()
    world.add("spring-2", value=0.25, channel="stable")
    bank.sync()
    shutil.rmtree(bank.home.of("spring-1"))
    shutil.copytree(bank.home.of("spring-2"), bank.home.of("spring-1"))
    with pytest.raises(ReleaseError, match="Expected the manifest of spring-1, got that of spring-2"):
        bank.adoption().roll_back(None, world.now)
    assert bank.adopted == "spring-2"


def test_a_channel_that_names_no_release_leaves_the_old_one_in_place(bank: MemberBank, world: World) -> None:
    """Two banks signed it in error: no bank that looks does."""
    bank.sync()
    draft, files = world.channel_change("stable", "winter-1", 2, world.folder / "stable.json")
    world.publish(draft, ("bank1", "bank2"), files)
    with pytest.raises(ReleaseError, match="Expected a release that the members signed, got winter-1, unlisted"):
        bank.sync()
    assert bank.adopted == "spring-1" and bank.notes[-1][0] == "release-refused"


def test_another_channel_is_followed_as_it_is_chosen(bank: MemberBank, world: World) -> None:
    bank.sync()
    world.add("spring-2", value=0.25, channel="canary")
    assert "is the newest" in bank.sync()
    assert bank.adopted == "spring-1"


def two_years(bank: MemberBank, world: World) -> None:
    """spring-1, a year on spring-2, and the members' signatures made anew in time; spring-1 keeps those of its day."""
    bank.sync()
    world.now += timedelta(days=300)
    world.publish(world.root_change(), ("bank1", "bank2"))
    world.add("spring-2", value=0.25, channel="stable")
    bank.sync()
    world.now += timedelta(days=100)


def test_there_is_a_way_back_to_a_release_that_is_older_than_the_signatures_it_came_with(
    bank: MemberBank, world: World
) -> None:
    two_years(bank, world)
    with pytest.raises(ReleaseError, match="expired"):
        verify_release(bank.home.of("spring-1"), world.pinned, world.now)
    bank.adoption().roll_back(None, world.now)
    assert bank.adopted == "spring-1"
    verify_release(bank.home.of("spring-1"), world.pinned, world.now)


def test_the_members_too_can_go_back_to_a_release_of_last_year(bank: MemberBank, world: World) -> None:
    two_years(bank, world)
    world.move("stable", "spring-1")
    assert bank.sync().startswith("Adopted spring-1, signed by bank2, bank3")


def test_there_is_no_way_back_to_what_the_members_do_not_sign_any_more(bank: MemberBank, world: World) -> None:
    two_years(bank, world)
    world.now += timedelta(days=365)
    with pytest.raises(ReleaseError, match="expired"):
        bank.adoption().roll_back(None, world.now)
    assert bank.adopted == "spring-2"
