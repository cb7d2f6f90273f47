"""``fedbank release export``: what it refuses, and that whatever goes wrong leaves nothing under its name."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bank_world import MemberBank
from release_world import World

from fedbank.cli import main
from fedbank.release.contents import CARD, FILES, WEIGHTS


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.add("spring-1", channel="stable")
    return made


@pytest.fixture
def release(world: World, tmp_path: Path) -> Path:
    bank = MemberBank(world, tmp_path / "member")
    bank.sync()
    return bank.home.of("spring-1")


def _export(*words: object) -> int:
    return main(["release", "export", *map(str, words)])


def _flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [-1, -4])
def test_one_flipped_bit_in_any_file_is_refused(
    release: Path, tmp_path: Path, name: str, place: int, capsys: pytest.CaptureFixture[str]
) -> None:
    _flip(release / "adapter" / name, place)
    assert _export(release, tmp_path / "out") == 2
    assert "Expected" in capsys.readouterr().err
    assert not list(tmp_path.glob("*out*"))


def test_a_flipped_bit_that_no_check_of_the_numbers_can_see_is_still_not_what_was_signed(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _flip(release / "adapter" / WEIGHTS, -4)  # the last bit of a weight
    assert _export(release / "adapter", tmp_path / "unsigned") == 0, "a folder without signatures is inspected only"
    assert _export(release, tmp_path / "out") == 2
    assert f"Expected {WEIGHTS} with the SHA-256" in capsys.readouterr().err


def test_with_a_root_of_other_members_it_is_refused(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root.json"
    root.write_bytes(World(tmp_path / "other", banks=("bank7", "bank8", "bank9")).pinned)
    assert _export(release, tmp_path / "out", "--root", root) == 2
    assert "Expected 2 of bank7, bank8, bank9 to have signed" in capsys.readouterr().err
    assert not list(tmp_path.glob("*out*"))


def test_with_a_root_a_folder_without_signatures_is_refused(world: World, release: Path, tmp_path: Path) -> None:
    root = tmp_path / "root.json"
    root.write_bytes(world.pinned)
    assert _export(release, tmp_path / "out", "--root", root) == 0
    assert _export(release / "adapter", tmp_path / "bare", "--root", root) == 2
    shutil.rmtree(release / "signatures")
    (release / "signatures").mkdir()
    assert _export(release, tmp_path / "empty") == 2
    assert not (tmp_path / "bare").exists() and not (tmp_path / "empty").exists()


def test_what_exists_is_never_written_into(release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "note").write_text("mine", "utf-8")
    assert _export(release, taken) == 2
    assert f"Expected a new folder, got {taken}, which exists" in capsys.readouterr().err
    assert [path.read_text("utf-8") for path in taken.iterdir()] == ["mine"]


def test_a_hidden_folder_beside_the_output_is_nobodys_business(release: Path, tmp_path: Path) -> None:
    hidden = tmp_path / ".ssh"
    hidden.mkdir()
    (hidden / "key").write_text("mine", "utf-8")
    assert _export(release, tmp_path / "ssh") == 0
    assert (hidden / "key").read_text("utf-8") == "mine"


def test_a_release_is_not_exported_into_itself(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(release.rglob("*"))
    assert _export(release, release / "adapter" / "out") == 2
    assert "Expected a folder outside the release" in capsys.readouterr().err
    assert sorted(release.rglob("*")) == before


def test_a_merge_that_fails_leaves_nothing(release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _export(release, tmp_path / "out", "--merged") == 2  # the tiny model is not the one that it was made for
    assert "Expected the base model" in capsys.readouterr().err
    assert not list(tmp_path.glob("*out*")) and not list(tmp_path.glob(".out*"))


@pytest.mark.slow
def test_killed_while_it_merges_it_leaves_nothing_under_its_name_and_the_next_one_clears_up(
    release: Path, tmp_path: Path
) -> None:
    output, building = tmp_path / "out", tmp_path / ".out.fedbank-export"
    words = [sys.executable, "-m", "fedbank.cli", "release", "export", str(release), str(output), "--merged"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE)
    while not building.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert not output.exists()
    assert _export(release, output) == 0
    assert sorted(path.name for path in output.iterdir()) == sorted(FILES)
    assert not building.exists()
    assert (output / CARD).read_bytes() == (release / "adapter" / CARD).read_bytes()
