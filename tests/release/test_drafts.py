"""A draft as it arrives from somebody else's hands: files more, files that are none, files without end."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from draft_world import draft_of_release, travelling
from release_world import World

from fedbank.release.change import Draft, Published, Trusted
from fedbank.release.contents import CARD, CONFIG, MAX_BYTES, WEIGHTS, check_id
from fedbank.release.drafts import DraftFolder, read_signature, sign_draft
from fedbank.release.errors import ReleaseError
from fedbank.sealing.keys import SigningKey

Attack = Callable[[Path, Path], None]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def read_all(world: World, drafted: DraftFolder) -> dict[str, Path]:
    """Everything that a reader does with a draft."""
    root = world.repository.root()
    assert root is not None
    draft = drafted.read()
    return drafted.new_files(drafted.change(Trusted(root.signed, None, {}), draft))


def a_file_more(folder: Path, files: Path) -> None:
    (files / "code.py").write_text("")


def a_file_elsewhere(folder: Path, files: Path) -> None:
    (folder / "files" / "channel").mkdir()
    (folder / "files" / "channel" / "stable.json").write_bytes(b'{"release":"spring-1","seq":1}')


def a_file_missing(folder: Path, files: Path) -> None:
    (files / CARD).unlink()


def a_link(folder: Path, files: Path) -> None:
    (files / CARD).rename(folder.parent / "elsewhere")
    (files / CARD).symlink_to(folder.parent / "elsewhere")


def a_pipe(folder: Path, files: Path) -> None:
    (files / CARD).unlink()
    os.mkfifo(files / CARD)


def a_card_without_end(folder: Path, files: Path) -> None:
    with (files / CARD).open("r+b") as file:
        file.truncate(MAX_BYTES[CARD] + 1)


def weights_without_end(folder: Path, files: Path) -> None:
    with (files / WEIGHTS).open("r+b") as file:
        file.truncate(MAX_BYTES[WEIGHTS] + 1)


def metadata_without_end(folder: Path, files: Path) -> None:
    with (folder / "targets.json").open("r+b") as file:
        file.truncate(1 << 40)


def metadata_that_is_a_link(folder: Path, files: Path) -> None:
    (folder / "targets.json").rename(folder.parent / "elsewhere")
    (folder / "targets.json").symlink_to(folder.parent / "elsewhere")


def metadata_that_is_a_pipe(folder: Path, files: Path) -> None:
    (folder / "targets.json").unlink()
    os.mkfifo(folder / "targets.json")


def a_channel_that_is_a_pipe(folder: Path, files: Path) -> None:
    (folder / "files" / "channel").mkdir()
    os.mkfifo(folder / "files" / "channel" / "stable.json")


def a_signature_without_end(folder: Path, files: Path) -> None:
    (folder / "signatures").mkdir()
    (folder / "signatures" / "x.json").write_bytes(b"{" * 5000)


def a_signature_that_is_none(folder: Path, files: Path) -> None:
    (folder / "signatures").mkdir()
    (folder / "signatures" / "x.json").write_bytes(b"{}")


def nothing_to_sign(folder: Path, files: Path) -> None:
    (folder / "targets.json").unlink()


REFUSED: list[tuple[Attack, str]] = [
    (a_file_more, "files"),
    (a_file_elsewhere, "files"),
    (a_file_missing, "files"),
    (a_link, "files"),
    (a_pipe, "files"),
    (a_card_without_end, "files"),
    (weights_without_end, "files"),
    (metadata_without_end, "files"),
    (metadata_that_is_a_link, "files"),
    (metadata_that_is_a_pipe, "metadata"),
    (a_channel_that_is_a_pipe, "channel"),
    (a_signature_without_end, "files"),
    (a_signature_that_is_none, "files"),
    (nothing_to_sign, "files"),
]


@pytest.mark.parametrize(("attack", "check"), REFUSED, ids=[row[0].__name__ for row in REFUSED])
def test_a_draft_that_is_more_or_other_than_one_change_is_refused(attack: Attack, check: str, world: World) -> None:
    drafted = draft_of_release(world, "spring-1")
    files = drafted.folder / "files" / "releases" / "spring-1"
    assert len(read_all(world, drafted)) == 4
    attack(drafted.folder, files)
    with pytest.raises(ReleaseError) as refused:
        read_all(world, drafted)
    assert refused.value.check == check, str(refused.value)


def test_signatures_that_stand_in_the_metadata_itself_do_not_count(world: World) -> None:
    """Only signature files do, which are held to their form."""
    drafted = draft_of_release(world, "spring-1")
    draft = drafted.read()
    world.sign(draft, "bank1", "bank2")
    assert draft.targets is not None and len(draft.targets.signatures) == 2
    (drafted.folder / "targets.json").write_bytes(draft.targets.to_bytes())
    again = drafted.read()
    assert again.targets is not None and not again.targets.signatures


def test_a_bank_signs_every_part_of_a_draft(world: World) -> None:
    world.add("spring-1")
    draft = world.root_change()
    assert draft.root is not None and draft.targets is not None
    found = read_signature(sign_draft(draft, "bank1", world.keys["bank1"]))
    assert sorted(found) == ["root", "targets"]
    drafted = travelling(world.folder / "draft", draft)
    (drafted.folder / "signatures").mkdir()
    for bank in ("bank1", "bank2"):
        content = sign_draft(draft, bank, world.keys[bank])
        (drafted.folder / "signatures" / f"{bank}.json").write_bytes(content)
    world.repository.publish(drafted.read(), {}, world.online, world.now)
    root = world.repository.root()
    assert root is not None and root.signed.version == 2


def test_a_signature_of_a_stranger_changes_nothing_and_breaks_nothing(world: World) -> None:
    drafted = draft_of_release(world, "spring-1")
    (drafted.folder / "signatures").mkdir()
    for name, key in {"bank1": world.keys["bank1"], "x": SigningKey.derived("x")}.items():
        content = sign_draft(drafted.read(), name, key)
        (drafted.folder / "signatures" / f"{name}.json").write_bytes(content)
    with pytest.raises(ReleaseError, match="too few signed"):
        world.repository.publish(drafted.read(), read_all(world, drafted), world.online, world.now)
    assert world.repository.current() is None


def test_what_is_published_is_what_was_listed(world: World) -> None:
    """A file that was exchanged after the banks signed does not reach the repository."""
    draft, files = world.release_change(world.release("spring-1"))
    world.sign(draft, "bank1", "bank2")
    next(path for path in files.values() if path.name == CONFIG).write_text("{}", "utf-8")
    with pytest.raises(Exception, match="length"):
        world.repository.publish(draft, files, world.online, world.now)
    assert world.repository.current() is None


def test_a_release_needs_signatories_first() -> None:
    with pytest.raises(ReleaseError, match="there are no signatories yet"):
        DraftFolder(Path("nowhere")).change(Trusted(None, None, {}), Draft(None, None))
    assert Published("spring-1").sentence() == "publish the release spring-1"


def test_a_file_with_a_field_that_nobody_agreed_to_is_refused(world: World) -> None:
    draft, files = world.release_change(world.release("spring-1"))
    assert draft.targets is not None
    next(iter(draft.targets.signed.targets.values())).unrecognized_fields["custom"] = {"note": "signed unseen"}
    with pytest.raises(ReleaseError, match="Expected releases/spring-1/"):
        read_all(world, travelling(world.folder / "draft", draft, files))


def test_what_nobody_could_sign_is_refused_before_anybody_looks_further(world: World) -> None:
    drafted = draft_of_release(world, "spring-1")
    path = drafted.folder / "targets.json"
    path.write_text(path.read_text("utf-8").replace('"version":', '"more":1.5,"version":', 1), "utf-8")
    with pytest.raises(ReleaseError, match="Expected TUF metadata that can be signed"):
        read_all(world, drafted)


@pytest.mark.parametrize("name", ["trust", "lock", "root.json", "adopted.json"])
def test_a_release_is_not_called_like_what_else_a_bank_keeps_beside_it(name: str) -> None:
    with pytest.raises(ReleaseError, match="Expected a release named"):
        check_id(name)
