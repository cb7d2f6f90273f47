"""Nothing outside a bank depends on how a release does on its held-out customers, but for what a person decides.

Whoever makes a release can craft it so that one customer turns the figure. Banks whose held-out customers differ in
carol do the same, to the byte: requests, files that may be handed over, exit code.
"""

import os
import pty
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from draft_world import draft_of_release, privacy_of
from release_world import World
from watched_bank import Watched

from fedbank.errors import RunError
from fedbank.evidence.files import read_entry_lines
from fedbank_client.own_customers import OwnScores, keep, kept_sentence

WITHOUT, WITH, CRASHES = "alice\nbob\n", "alice\nbob\ncarol\n", "alice\nbob\ncrash\n"
"""Better than the base model; worse; and the process that scores them dies with words that no terminal can show."""
FIGURES = {WITHOUT: "nll 2.0000 -> 1.5000, 2 records: better", WITH: "nll 2.0000 -> 3.0000, 3 records: WORSE"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("alliance"))
    made.add("spring-1", channel="stable")
    return made


@pytest.fixture(scope="module")
def bank(world: World) -> Iterator[Watched]:
    with pytest.MonkeyPatch.context() as environment:
        watched = Watched(world.folder, world, environment)
        yield watched
        watched.close()


@pytest.fixture(scope="module")
def draft(world: World) -> str:
    return str(draft_of_release(world, "autumn-1", privacy={**privacy_of(), "banks": {}}).folder)


def typed(answer: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person at a terminal who types this; ``None``: nobody, as in cron."""
    if answer is None:
        monkeypatch.setattr(sys, "stdin", Path(os.devnull).open())  # noqa: SIM115
        return
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    monkeypatch.setattr(sys, "stdin", os.fdopen(theirs))


COMMANDS: list[tuple[str, tuple[str, ...], str | None, int, bool]] = [
    # what happens; the command; what a person types; exit code; whether own customers are shown
    ("a sync from cron waits", ("sync",), None, 0, True),
    ("a sync that was decided", ("sync", "--yes"), None, 0, False),
    ("a person adopts", ("sync",), "yes", 0, True),
    ("a person does not adopt", ("sync",), "no", 0, True),
    ("for a program", ("sync", "--json"), None, 0, True),
    ("a review", ("release", "review", "DRAFT"), None, 0, True),
    ("a review for a program", ("release", "review", "DRAFT", "--json"), None, 0, True),
    ("a signature that was decided", ("release", "sign", "DRAFT", "--yes"), None, 0, False),
    ("a person signs", ("release", "sign", "DRAFT"), "yes", 0, True),
    ("a person does not sign", ("release", "sign", "DRAFT"), "", 2, True),
    ("without the model", ("release", "sign", "DRAFT", "--no-evaluation"), None, 0, False),
]


@pytest.mark.parametrize(
    ("words", "answer", "code", "shown"), [row[1:] for row in COMMANDS], ids=[r[0] for r in COMMANDS]
)
def test_what_is_seen_outside_does_not_depend_on_a_customer(
    words: tuple[str, ...],
    answer: str | None,
    code: int,
    shown: bool,
    bank: Watched,
    draft: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen = []
    for customers in (WITHOUT, WITH, CRASHES):
        typed(answer, monkeypatch)
        found, private = bank.command(customers, *(draft if word == "DRAFT" else word for word in words))
        seen.append(found)
        figure = FIGURES.get(customers, "no figures, Expected an adapter that loads and answers, got: ???? caf?")
        assert (figure in private, figure in capsys.readouterr().out) == (shown, shown)
        assert not any(b"3.0000" in content or b"1.5000" in content for content in found.files.values())
    assert seen[0] == seen[1] == seen[2]
    assert seen[0].code == code and seen[0].asked


@pytest.mark.fault(32)
def test_a_person_decides_and_nothing_else(
    bank: Watched, draft: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same customers: yes signs and adopts, anything else does not."""
    for customers in (WITHOUT, WITH):
        for answer, signed in (("YES ", True), ("y", False), ("", False)):
            typed(answer, monkeypatch)
            found, _ = bank.command(customers, "release", "sign", draft)
            assert (("signature" in found.files), found.code) == (signed, 0 if signed else 2)
            typed(answer, monkeypatch)
            found, _ = bank.command(customers, "sync")
            assert ("bank/releases/adopted.json" in found.files) == signed
            assert "bank/releases/spring-1/adapter/manifest.json" in found.files, "it is not fetched a second time"


def test_where_nobody_can_be_asked_nothing_is_signed_and_no_customer_is_looked_at(
    bank: Watched, draft: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(None, monkeypatch)
    before = bank.scored()
    with pytest.raises(RunError, match=r"Expected a person at a terminal to decide.*then sign it with --yes"):
        bank.command(WITH, "release", "sign", draft)
    assert bank.scored() == before


def test_own_customers_are_scored_after_the_last_connection_has_ended(
    bank: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the coordinator could time the scoring by the end of a connection."""
    typed(None, monkeypatch)
    bank.command(WITH, "sync")
    assert bank.scored()[-2:] == ["connected", "alone"], "made-up customers first, then the bank's own"


def test_the_evidence_of_an_adoption_names_who_signed_and_no_figure(
    bank: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed("yes", monkeypatch)
    bank.command(WITH, "sync")
    last = read_entry_lines(bank.folder / f"run-{bank.runs}" / "bank" / "evidence.jsonl")[-1].decode()
    assert '"action":"release-adopted"' in last and '"result":"signed by bank2, bank3"' in last


def test_the_private_file_is_its_owners_only_and_a_damaged_one_stops_nobody(tmp_path: Path) -> None:
    keep(tmp_path, "spring-1", OwnScores(None, "not yet"))
    keep(tmp_path, "spring-2", OwnScores(None, "out of memory"))
    (path,) = tmp_path.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert kept_sentence(tmp_path, "spring-1") == "no figures, not yet" and kept_sentence(tmp_path, "spring-3") is None
    path.write_text("[7", "utf-8")
    assert kept_sentence(tmp_path, "spring-1") is None
    keep(tmp_path, "spring-1", OwnScores(None, "again"))
    assert kept_sentence(tmp_path, "spring-1") == "no figures, again"
