"""``fedbank verify`` on folders that somebody else made: what leads from the first root to the last byte."""

import json
import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from release_world import World, write_release

from fedbank.cli import main
from fedbank.release.errors import ReleaseError
from fedbank.release.mirror import copy_signatures
from fedbank.release.offline import verify_release
from fedbank.release.trust import MAX_ROOT_BYTES
from fedbank.sealing.keys import SigningKey

Attack = Callable[[World, Path], None]


@pytest.fixture
def world(tmp_path: Path) -> World:
    """spring-1 is published; bank4 joined in the second root, the threshold rose in the third."""
    made = World(tmp_path)
    made.add("spring-1", channel="stable")
    made.keys["bank4"] = SigningKey.derived("release", "bank4")
    made.publish(made.root_change(), ("bank1", "bank2", "bank4"))
    made.threshold = 3
    made.publish(made.root_change(), ("bank1", "bank2", "bank4"))
    return made


@pytest.fixture
def folder(world: World, tmp_path: Path) -> Path:
    mirror = world.mirror()
    mirror.fetch(mirror.look(), "spring-1", tmp_path / "got" / "adapter")
    copy_signatures(tmp_path / "bank1" / "trust", tmp_path / "got" / "signatures")
    return tmp_path / "got"


def test_whoever_has_the_first_root_follows_to_the_newest(world: World, folder: Path) -> None:
    verified = verify_release(folder, world.pinned, world.now)
    assert (verified.root_version, verified.threshold) == (3, 3)
    assert verified.signed_by == ["bank1", "bank2", "bank4"] and verified.valid_until == world.expires
    newer = (folder / "signatures" / "2.root.json").read_bytes()
    assert verify_release(folder, newer, world.now) == verified


def a_root_left_out(world: World, folder: Path) -> None:
    (folder / "signatures" / "2.root.json").unlink()


def a_root_of_strangers(world: World, folder: Path) -> None:
    other = World(folder.parent / "other", banks=("bank7", "bank8"))
    other.publish(other.root_change(), ("bank7", "bank8"))
    content = (other.repository.metadata / "2.root.json").read_bytes()
    (folder / "signatures" / "2.root.json").write_bytes(content)


def a_root_without_end(world: World, folder: Path) -> None:
    with (folder / "signatures" / "2.root.json").open("r+b") as file:
        file.truncate(1 << 40)


def a_root_with_blanks_behind(world: World, folder: Path) -> None:
    """The signatures are good: they cover no blanks."""
    with (folder / "signatures" / "2.root.json").open("ab") as file:
        file.write(b" " * MAX_ROOT_BYTES)


def a_root_that_is_a_pipe(world: World, folder: Path) -> None:
    (folder / "signatures" / "2.root.json").unlink()
    os.mkfifo(folder / "signatures" / "2.root.json")


def a_root_that_is_a_link(world: World, folder: Path) -> None:
    (folder / "signatures" / "3.root.json").rename(folder / "elsewhere")
    (folder / "signatures" / "3.root.json").symlink_to(folder / "elsewhere")


def a_root_without_number(world: World, folder: Path) -> None:
    (folder / "signatures" / "newest.root.json").write_bytes(b"{}")


def targets_missing(world: World, folder: Path) -> None:
    (folder / "signatures" / "targets.json").unlink()


def targets_without_end(world: World, folder: Path) -> None:
    with (folder / "signatures" / "targets.json").open("r+b") as file:
        file.truncate(1 << 40)


def targets_of_before(world: World, folder: Path) -> None:
    """What two banks signed, when now three must."""
    shutil.copyfile(world.repository.metadata / "2.targets.json", folder / "signatures" / "targets.json")


def targets_with_a_number_that_nobody_can_sign(world: World, folder: Path) -> None:
    path = folder / "signatures" / "targets.json"
    path.write_text(path.read_text("utf-8").replace('"version":', '"more":1.5,"version":', 1), "utf-8")


def one_signature_taken_away(world: World, folder: Path) -> None:
    path = folder / "signatures" / "targets.json"
    said = json.loads(path.read_bytes())
    said["signatures"].pop()
    path.write_text(json.dumps(said))


def another_release(world: World, folder: Path) -> None:
    shutil.rmtree(folder / "adapter")
    (folder / "adapter").mkdir()
    write_release(folder / "adapter", "spring-9")


def another_adapter_under_the_same_name(world: World, folder: Path) -> None:
    shutil.rmtree(folder / "adapter")
    (folder / "adapter").mkdir()
    write_release(folder / "adapter", "spring-1", value=0.25)


def a_card_with_one_byte_more(world: World, folder: Path) -> None:
    with (folder / "adapter" / "README.md").open("ab") as file:
        file.write(b"\n")


def one_weight_flipped(world: World, folder: Path) -> None:
    with (folder / "adapter" / "adapter_model.safetensors").open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\x01")


REFUSED: list[tuple[Attack, str]] = [
    (a_root_left_out, "version"),
    (a_root_of_strangers, "signatures"),
    (a_root_without_end, "metadata"),
    (a_root_with_blanks_behind, "metadata"),
    (a_root_that_is_a_pipe, "metadata"),
    (a_root_that_is_a_link, "files"),
    (a_root_without_number, "files"),
    (targets_missing, "files"),
    (targets_without_end, "metadata"),
    (targets_with_a_number_that_nobody_can_sign, "metadata"),
    (targets_of_before, "signatures"),
    (one_signature_taken_away, "signatures"),
    (another_release, "unlisted"),
    (another_adapter_under_the_same_name, "hash"),
    (a_card_with_one_byte_more, "hash"),
    (one_weight_flipped, "hash"),
]


@pytest.mark.parametrize(("attack", "check"), REFUSED, ids=[row[0].__name__ for row in REFUSED])
def test_a_folder_that_the_signatures_do_not_cover_is_refused(
    attack: Attack, check: str, world: World, folder: Path
) -> None:
    attack(world, folder)
    with pytest.raises(ReleaseError) as refused:
        verify_release(folder, world.pinned, world.now)
    assert refused.value.check == check, str(refused.value)


def test_another_folder_or_another_file_as_root_is_named(
    world: World, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, other = tmp_path / "first.json", tmp_path / "release-key.json"
    root.write_bytes(world.pinned)
    other.write_text("{}")
    assert main(["verify", str(folder.parent), "--root", str(root)]) == 2
    assert f"in {folder.parent}, got no adapter/ there" in capsys.readouterr().err
    assert main(["verify", str(folder), "--root", str(other)]) == 2
    assert f"Expected the members' first root in {other}, got another file" in capsys.readouterr().err


@pytest.mark.parametrize("expired", ["root", "targets"])
def test_what_has_expired_is_refused_and_verifies_as_of_its_day(
    expired: str, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draft = world.root_change()
    soon = (world.now + timedelta(days=1)).replace(microsecond=0)
    assert draft.root is not None and draft.targets is not None
    (draft.root if expired == "root" else draft.targets).signed.expires = soon
    world.publish(draft, ("bank1", "bank2", "bank4"))
    _take_anew(world, tmp_path / "got")
    later = world.now + timedelta(days=2)
    with pytest.raises(ReleaseError, match=f"Expected {expired} metadata that is valid at") as refused:
        verify_release(tmp_path / "got", world.pinned, later)
    assert refused.value.check == "expired"
    (tmp_path / "first.json").write_bytes(world.pinned)
    words = ["verify", str(tmp_path / "got"), "--root", str(tmp_path / "first.json"), "--at"]
    assert main([*words, later.isoformat()]) == 2 and "Ask the members to sign it anew" in capsys.readouterr().err
    assert main([*words, world.now.isoformat()]) == 0
    assert "spring-1: signed by bank1, bank2, bank4 (3 needed)" in capsys.readouterr().out


def _take_anew(world: World, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    mirror = world.mirror("another")
    mirror.fetch(mirror.look(), "spring-1", folder / "adapter")
    copy_signatures(world.folder / "another" / "trust", folder / "signatures")


def test_roots_behind_a_bad_one_are_not_read(folder: Path, world: World) -> None:
    """There may be any number of them in a folder from elsewhere."""
    for number in range(2, 500):
        (folder / "signatures" / f"{number}.root.json").write_bytes(b"{}")
    (folder / "signatures" / "500.root.json").symlink_to("nowhere")
    with pytest.raises(ReleaseError) as refused:
        verify_release(folder, world.pinned, world.now)
    assert refused.value.check == "metadata"
