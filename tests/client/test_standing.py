"""A bank whose ledger or identity is not its alone trains nothing more until a person acts."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asked_bank import request_for, secure

from fedbank.adapter.heads import NO_LINES, LedgerHead
from fedbank.adapter.lora import AdaptedModel
from fedbank.adapter.update import RoundRequest
from fedbank.errors import PrivacyError
from fedbank.privacy.ledger import read_ledger
from fedbank_client.bank import Bank
from fedbank_client.standing import StoppedError, why_stopped


def asked(
    model: AdaptedModel, number: int = 1, head: LedgerHead = NO_LINES, *, twin: bool = False, campaign: str = "spring"
) -> bytes:
    """A request that hands back ``head``."""
    request = RoundRequest.from_bytes(request_for(model, number, campaign), model.spec)
    return replace(request, head=head, twin=twin).to_bytes()


def head_of(folder: Path, line: int) -> LedgerHead:
    """The head after that line of the ledger in ``folder``, worked out from the file."""
    lines = (folder / "ledger.jsonl").read_bytes().split(b"\n")
    return LedgerHead(line, hashlib.sha256(lines[line - 1]).hexdigest())


Handed = Callable[[Path], LedgerHead]
HANDED_BACK: dict[str, tuple[Handed, bool]] = {
    "nothing yet": (lambda folder: NO_LINES, True),
    "its first charge": (lambda folder: head_of(folder, 2), True),
    "its newest charge": (lambda folder: head_of(folder, 3), True),
    "its heading": (lambda folder: head_of(folder, 1), True),
    "a line that it does not have yet": (lambda folder: LedgerHead(4, "ab" * 32), False),
    "another line at the same place": (lambda folder: LedgerHead(3, "ab" * 32), False),
    "its own line at another place": (lambda folder: replace(head_of(folder, 2), lines=3), False),
    "a line before all": (lambda folder: LedgerHead(1, "ab" * 32), False),
    "a line without end": (lambda folder: LedgerHead(10**12 - 1, "ab" * 32), False),
}


@pytest.mark.parametrize(("handed", "trains"), HANDED_BACK.values(), ids=HANDED_BACK.keys())
@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
def test_a_head_that_is_handed_back_is_one_of_the_banks_own_lines(
    open_bank: Any, model: AdaptedModel, tmp_path: Path, handed: Handed, trains: bool, restart: bool
) -> None:
    bank, ledger = open_bank(secure)
    bank.train(asked(model, 1))
    bank.train(asked(model, 2))
    if restart:
        bank, ledger = open_bank(secure)
    request = asked(model, 3, handed(tmp_path))
    if trains:
        bank.train(request)
        assert len(ledger.charges()) == 3 and why_stopped(tmp_path) == ""
        return
    with pytest.raises(StoppedError, match=r"which the coordinator has seen.*Nothing was trained"):
        bank.train(request)
    assert len(ledger.charges()) == 2
    assert "a copy of the folder has spent too" in why_stopped(tmp_path)


def test_what_the_coordinator_is_told_is_the_newest_line(open_bank: Any, model: AdaptedModel, tmp_path: Path) -> None:
    bank, _ = open_bank(secure)
    assert bank.head() == NO_LINES
    assert not (tmp_path / "ledger.jsonl").exists(), "telling it writes nothing"
    update = bank.train(asked(model, 1))
    assert bank.head() == update.head == head_of(tmp_path, 2)
    bank.train(asked(model, 2))
    assert bank.head() == head_of(tmp_path, 3)
    assert bank.train(asked(model, 1)).head == head_of(tmp_path, 2), "a kept update is sent as it was"


def test_a_line_that_a_crash_left_uncounted_is_on_disk_for_good_before_it_is_told(
    open_bank: Any, model: AdaptedModel, tmp_path: Path
) -> None:
    bank, _ = open_bank(secure)
    bank.train(asked(model, 1))
    before = (tmp_path / "ledger.head").read_bytes()
    bank.train(asked(model, 2))
    (tmp_path / "ledger.head").write_bytes(before)
    bank, _ = open_bank(secure)
    assert bank.head() == head_of(tmp_path, 3)
    assert read_ledger(tmp_path / "ledger.jsonl").counted == 3


def test_a_bank_whose_process_lives_twice_stops(open_bank: Any, model: AdaptedModel, tmp_path: Path) -> None:
    bank, ledger = open_bank(secure)
    with pytest.raises(StoppedError, match=r"Expected to be the only process of bank-a.*Nothing was trained"):
        bank.train(asked(model, twin=True))
    assert ledger.charges() == [] and "its folder runs twice" in why_stopped(tmp_path)


@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
def test_whoever_has_stopped_stays_so_until_a_person_removes_the_mark(
    open_bank: Any, model: AdaptedModel, tmp_path: Path, restart: bool
) -> None:
    bank, ledger = open_bank(secure)
    kept = bank.train(asked(model, 1))
    with pytest.raises(StoppedError):
        bank.train(asked(model, 2, twin=True))
    if restart:
        bank, ledger = open_bank(secure)
    for number in (1, 2):
        with pytest.raises(StoppedError, match="Noticed 20"):
            bank.train(asked(model, number))
    assert len(ledger.charges()) == 1
    mark = tmp_path / "stopped.json"
    assert mark.stat().st_mode & 0o777 == 0o600 and json.loads(mark.read_text()).keys() == {"reason", "since"}
    mark.unlink()
    assert bank.train(asked(model, 1)).to_bytes() == kept.to_bytes()
    bank.train(asked(model, 2))


def test_a_mark_that_cannot_be_read_is_a_mark(open_bank: Any, model: AdaptedModel, tmp_path: Path) -> None:
    bank, _ = open_bank(secure)
    (tmp_path / "stopped.json").write_bytes(b"\xff{")
    with pytest.raises(StoppedError, match="cannot be read"):
        bank.train(asked(model))


def test_an_older_copy_of_the_folder_is_noticed(open_bank: Any, model: AdaptedModel, tmp_path: Path) -> None:
    """A backup of both files of the ledger verifies; only the coordinator knows that there was more."""
    bank, _ = open_bank(secure)
    bank.train(asked(model, 1))
    files = ("ledger.jsonl", "ledger.head")
    for name in files:
        shutil.copy2(tmp_path / name, tmp_path / f"{name}.backup")
    bank.train(asked(model, 2))
    known = bank.head()
    for name in files:
        shutil.copy2(tmp_path / f"{name}.backup", tmp_path / name)
    shutil.rmtree(tmp_path / "finished")
    bank, ledger = open_bank(secure)
    assert len(ledger.charges()) == 1, "the older copy verifies"
    with pytest.raises(StoppedError, match="this is an older one"):
        bank.train(asked(model, 3, known))


def test_a_ledger_that_was_lost_is_noticed_by_a_running_bank_too(
    open_bank: Callable[..., tuple[Bank, Any]], model: AdaptedModel, tmp_path: Path
) -> None:
    bank, _ = open_bank(secure)
    bank.train(asked(model, 1))
    known = bank.head()
    for path in (tmp_path / "ledger.jsonl", tmp_path / "ledger.head"):
        path.unlink()
    assert bank.head() == NO_LINES
    with pytest.raises(StoppedError):
        bank.train(asked(model, 2, known))


def test_a_damaged_ledger_stops_nothing_for_good(open_bank: Any, model: AdaptedModel, tmp_path: Path) -> None:
    """The coordinator is told of no line, so that it asks, and hears a refusal; once it is put back, all goes on."""
    bank, _ = open_bank(secure)
    bank.train(asked(model, 1))
    path = tmp_path / "ledger.jsonl"
    good = path.read_bytes()
    path.write_bytes(good.replace(b'"num_steps": 2', b'"num_steps": 1'))
    assert bank.head() == NO_LINES
    with pytest.raises(PrivacyError, match="must not be edited"):
        bank.train(asked(model, 2, LedgerHead(2, "ab" * 32)))
    assert why_stopped(tmp_path) == ""
    path.write_bytes(good)
    bank.train(asked(model, 2, head_of(tmp_path, 2)))
