"""What a bank looks at before it signs, as a table: what its own books say, what the draft says, which check fails."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from bank_world import MemberBank, policy
from draft_world import charge, draft_of_release, privacy_of, received, travelling
from release_world import World, manifest_of

from fedbank.release.contents import CARD
from fedbank.release.drafts import DraftFolder
from fedbank.release.errors import ReleaseError
from fedbank.release.repository import SIGNED_LIFE
from fedbank.release.signatories import FIELD, tuf_key
from fedbank.sealing.keys import PublicKey, SigningKey
from fedbank_client.policy import Policy
from fedbank_client.release_review import Review, review

OURS = manifest_of("spring-1", 0.5)
RESULT = OURS.adapter["digest"]
Books = Callable[[Path], None]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def bank(world: World, tmp_path: Path) -> MemberBank:
    return MemberBank(world, tmp_path / "member")


def look(
    bank: MemberBank, drafted: DraftFolder, own_key: PublicKey | None = None, said: Policy | None = None
) -> Review:
    return review(bank.home, drafted, said or bank.policy, own_key, (), suite=None, evaluate=False)


def failed(found: Review) -> list[str]:
    return [check.name for check in found.checks if not check.passed]


def as_it_was(folder: Path) -> None:
    charge(folder)
    received(folder, RESULT)


def no_books(folder: Path) -> None:
    """A bank that took no part."""


def more_steps(folder: Path) -> None:
    charge(folder, steps=61)
    received(folder, RESULT)


def less_noise(folder: Path) -> None:
    charge(folder, noise=1.09)
    received(folder, RESULT)


def another_campaign_only(folder: Path) -> None:
    charge(folder, campaign="autumn")
    received(folder, RESULT)


def another_result(folder: Path) -> None:
    charge(folder)
    received(folder, "1" * 64)


def result_of_an_earlier_try(folder: Path) -> None:
    charge(folder)
    received(folder, "1" * 64)
    received(folder, RESULT)


def result_of_another_campaign(folder: Path) -> None:
    charge(folder)
    received(folder, RESULT)
    received(folder, "1" * 64, campaign="autumn")


def _banks(**banks: Any) -> dict[str, Any]:
    return {"privacy": {**OURS.privacy, "banks": banks}}


def _spent(**changes: str) -> dict[str, Any]:
    return {"privacy": privacy_of(**changes)}


ROWS: list[tuple[str, Books, dict[str, Any], list[str]]] = [
    # what is so                             the bank's books  what the manifest says      checks that fail
    ("all as it was", as_it_was, {}, []),
    ("the campaign was tried twice", result_of_an_earlier_try, {}, []),
    ("a later campaign ended since", result_of_another_campaign, {}, []),
    ("epsilon below the ledger's", as_it_was, _spent(epsilon="0.5"), ["privacy"]),
    ("a smaller delta costs more", as_it_was, _spent(epsilon="7.31", delta="1e-12"), ["privacy"]),
    ("a delta that no epsilon reaches", as_it_was, _spent(delta="1e-30"), ["privacy"]),
    ("more noise than was drawn", as_it_was, _spent(noise_multiplier="1.2"), ["noise"]),
    ("the ledger drew less noise", less_noise, {}, ["noise"]),
    ("fewer steps than were done", as_it_was, _spent(steps="59"), ["noise"]),
    ("the ledger has more steps", more_steps, {}, ["noise"]),
    ("steps that are no whole number", as_it_was, _spent(steps="60.5"), []),
    ("left out, though it trained", as_it_was, _banks(), ["privacy"]),
    ("left out, and it did not train", no_books, _banks(), []),
    ("said to be without privacy", as_it_was, _banks(bank1=None), ["privacy"]),
    ("counted in, though it did not train", no_books, {}, ["privacy"]),
    ("counted in, trained another campaign", another_campaign_only, {}, ["privacy"]),
    ("another result than was received", another_result, {}, ["result"]),
]


@pytest.mark.parametrize(("books", "changes", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_a_bank_signs_only_what_its_own_books_say_too(
    books: Books, changes: dict[str, Any], expected: list[str], bank: MemberBank, world: World
) -> None:
    books(bank.home.home.folder)
    found = look(bank, draft_of_release(world, "spring-1", **changes))
    assert failed(found) == expected and found.passed is not bool(expected), found.checks
    assert found.checks[0].said == "publish the release spring-1"


def test_the_policy_speaks_before_the_bank_signs(bank: MemberBank, world: World) -> None:
    as_it_was(bank.home.home.folder)
    drafted = draft_of_release(world, "spring-1")
    assert failed(look(bank, drafted, said=policy(base="0" * 64))) == ["base model"]
    assert failed(look(bank, drafted, said=policy(rank=3))) == ["rank"]
    assert failed(look(bank, drafted, said=policy(base=OURS.base["digest"], rank=4))) == []


def test_a_delta_that_is_none_is_an_error_in_words(bank: MemberBank, world: World) -> None:
    as_it_was(bank.home.home.folder)
    with pytest.raises(Exception, match=r"Expected delta in the range from 1e-14 to below 1, got 2"):
        look(bank, draft_of_release(world, "spring-1", **_spent(delta="2")))


def test_files_that_the_metadata_does_not_list_are_not_signed(bank: MemberBank, world: World) -> None:
    drafted = draft_of_release(world, "spring-1")
    (drafted.folder / "files" / "releases" / "spring-1" / CARD).write_text("another card", "utf-8")
    with pytest.raises(ReleaseError, match=r"Expected README\.md with the SHA-256"):
        look(bank, drafted)


def test_a_release_under_two_names_is_not_signed(bank: MemberBank, world: World) -> None:
    """The four files of spring-1, listed as spring-2 too."""
    folder = world.release("spring-1")
    world.publish(world.release_change(folder)[0], ("bank1", "bank2"), world.release_change(folder)[1])
    world.mirror("member/releases").look()
    folder.rename(folder.with_name("spring-2"))
    draft, files = world.release_change(folder.with_name("spring-2"))
    with pytest.raises(ReleaseError, match="Expected the manifest of spring-2, got that of spring-1"):
        look(bank, travelling(world.folder / "draft", draft, files))


def test_nobody_else_changes_this_banks_key(bank: MemberBank, world: World) -> None:
    own, stranger = world.keys["bank1"], SigningKey.derived("stranger")
    for key, mine, expected in (
        (own, None, []),
        (stranger, None, ["own key"]),
        (stranger, own.public, ["own key"]),
        (stranger, stranger.public, []),  # a new key that this bank has made
    ):
        world.keys["bank1"] = key
        found = look(bank, travelling(world.folder / "draft", world.root_change()), mine)
        assert failed(found) == expected, found.checks
    del world.keys["bank1"]
    line = look(bank, travelling(world.folder / "draft", world.root_change())).checks[1]
    assert line.passed and "sign only if it leaves" in line.said


def test_a_change_is_compared_with_what_this_bank_has_seen_not_with_the_draft(bank: MemberBank, world: World) -> None:
    """A coordinator that shows an old state of affairs asks for the version that is there already."""
    old = draft_of_release(world, "spring-1")
    world.publish(old.read(), ("bank1", "bank2"), {str(p.relative_to(old.folder / "files")): p for p in _plain(old)})
    world.move("stable", "spring-1")
    world.mirror("member/releases").look()
    seen = bank.home.trusted()
    assert seen.targets is not None and seen.targets.version == 2 and seen.channels["stable"].release == "spring-1"
    with pytest.raises(ReleaseError, match="Expected a change to version 3, the next one, got version 1"):
        look(bank, old)


def test_what_is_signed_names_where_a_channel_goes(bank: MemberBank, world: World) -> None:
    world.add("spring-1", channel="stable")
    world.add("spring-2")
    world.mirror("member/releases").look()
    draft, files = world.channel_change("stable", "spring-2", 2, world.folder / "stable.json")
    found = look(bank, travelling(world.folder / "draft", draft, files))
    assert found.passed and found.checks[1].said == "stable: spring-1 -> spring-2"
    draft, files = world.channel_change("stable", "spring-2", 3, world.folder / "stable.json")
    with pytest.raises(ReleaseError, match="Expected change 2 of the channel stable, got 3"):
        look(bank, travelling(world.folder / "other", draft, files))


@pytest.mark.parametrize(
    ("days", "expected"), [(-1, ["valid until"]), (0, []), (365, []), (367, ["valid until"]), (9999, ["valid until"])]
)
def test_nobody_signs_for_longer_than_a_year(days: int, expected: list[str], bank: MemberBank, world: World) -> None:
    """What the banks signed is all that ends a coordinator's withholding: it is not the coordinator's to choose."""
    world.now += timedelta(days=days, hours=1) - SIGNED_LIFE
    for draft in (draft_of_release(world, "spring-1", **_banks()), travelling(world.folder / "x", world.root_change())):
        found = look(bank, draft)
        assert failed(found) == expected, found.checks
        assert found.checks[-1].said.endswith(f"{world.expires:%Y-%m-%d}")


@pytest.mark.parametrize(
    "name", ["bank4\nok   own key: yours", "b\x1b[2K", "bank\u202e4", "b\u0430nk4", "Bank4", "x, of whom 3"]
)
def test_a_name_that_would_change_what_a_signer_reads_is_refused(name: str, bank: MemberBank, world: World) -> None:
    draft = world.root_change()
    assert draft.root is not None
    root = draft.root.signed
    key = tuf_key(SigningKey.derived("bank4").public)
    for role in ("root", "targets"):
        root.add_key(key, role)
    root.unrecognized_fields[FIELD]["banks"][name] = key.keyid
    with pytest.raises(ReleaseError, match="Expected names as the roster has them, got") as refused:
        look(bank, travelling(world.folder / "draft", draft))
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("field", ["campaign", "rule", "code"])
def test_a_manifest_that_would_change_what_a_signer_reads_is_refused(
    field: str, bank: MemberBank, world: World
) -> None:
    training = {**OURS.training, field: "spring\nok   result: received what the release has"}
    with pytest.raises(ReleaseError, match=rf"training\.{field} is no short text"):
        look(bank, draft_of_release(world, "spring-1", training=training))
    with pytest.raises(ReleaseError, match=r"a name in privacy\.banks is no short text"):
        look(bank, draft_of_release(world, "spring-2", **_banks(**{"bank9\x1b[8m": None})))


def test_what_a_refusal_quotes_cannot_write_over_it(bank: MemberBank, world: World) -> None:
    drafted = draft_of_release(world, "spring-1")
    path = drafted.folder / "targets.json"
    path.write_text(path.read_text("utf-8").replace('"targets"', '"\\u001b[2J\\nok"', 1), "utf-8")
    with pytest.raises(ReleaseError) as refused:
        look(bank, drafted)
    assert str(refused.value).isprintable()


def test_a_first_root_is_looked_at_by_a_bank_that_trusts_none_yet(world: World, tmp_path: Path) -> None:
    new = MemberBank(world, tmp_path / "new")
    new.home.root.unlink()
    fresh = replace(new.home.trusted())
    assert (fresh.root, fresh.targets) == (None, None)
    fresh_world = World(tmp_path / "first")
    drafted = travelling(tmp_path / "draft", _first(fresh_world))
    found = look(new, drafted, fresh_world.keys["bank1"].public)
    assert found.passed and found.change.sentence().startswith("begin with the signatories bank1, bank2, bank3")
    assert failed(look(new, drafted)) == ["own key"]


def _first(world: World) -> Any:
    from tuf.api.metadata import Metadata

    from fedbank.release.change import Draft

    return Draft(Metadata(world.signatories().root(1, world.expires)), None)


def _plain(drafted: DraftFolder) -> list[Path]:
    return [path for path in (drafted.folder / "files").rglob("*") if path.is_file()]
