"""The files of a round: what is stored comes back, what was exchanged is noticed, a status is read as written."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from numeric_bank import NUM_STEPS, key_of, numeric_change

from fedbank.adapter.update import UPDATE, Update
from fedbank.aggregation.admit import Refused
from fedbank.aggregation.rounds import Accepted, Round
from fedbank.errors import FedBankError, RunError
from fedbank.sealing.envelope import seal
from fedbank_server.history import History, recompute
from fedbank_server.round_store import RoundStore
from fedbank_server.snapshot import BankState, BankStatus, CampaignStatus, read_status

Make = Callable[..., Any]


def test_a_round_comes_back_as_it_was(tmp_path: Path) -> None:
    record = Round(3, "b", 1000.25).collect(1000.5, 60.0).accept("bank-1", Accepted("d", "k", 10, 1.5))
    record = record.refuse(Refused("bank-2", "norm", "too long"), final=True).abort(1060.5, {"bank-2": "refused"})
    store = RoundStore(tmp_path)
    assert store.load() is None
    for step in (record, record.retry(new_series=False), record.retry(new_series=True).collect(2.0, None)):
        store.save(step)
        assert RoundStore(tmp_path).load() == step


RECORDS = ["", "[]", "{}", "null", "{", '{"number": 1}', "[" * 100_000, '{"phase": "done"}']


@pytest.mark.parametrize("content", RECORDS, ids=lambda text: text[:20] or "empty")
@pytest.mark.fault(23)
def test_a_damaged_record_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "round.json").write_text(content)
    with pytest.raises(RunError, match=r"round.json.*Delete the file"):
        RoundStore(tmp_path).load()


@pytest.mark.parametrize("bank", ["bank-1", "..", "a/b", "bank.é", "-", ".hidden", "x" * 60])
def test_an_update_is_stored_under_its_banks_name(tmp_path: Path, make_consortium: Make, bank: str) -> None:
    terms = make_consortium().terms
    update = Update("spring", 7, bank, "0" * 64, "plan", NUM_STEPS, numeric_change(terms, "bank-1", 7, "0" * 64))
    store = RoundStore(tmp_path)
    store.keep(update, b"content")
    (kept,) = store.kept(7)
    assert (kept.bank, kept.path.parent, store.read(7, bank)) == (bank, tmp_path / "updates", b"content")
    assert list(store.kept(6)) == list(store.kept(70)) == []
    store.forget_before(8)
    assert list((tmp_path / "updates").iterdir()) == []
    with pytest.raises(RunError, match="Restore it"):
        store.read(7, bank)


def test_a_round_is_in_the_history_once(make_consortium: Make) -> None:
    c = make_consortium(rounds=2)
    c.run()
    lines = c.store.history.lines()
    for line in lines:
        with pytest.raises(RunError, match="end before round"):
            c.store.history.append(line)
    assert c.store.history.lines() == lines


def test_recomputing_finds_what_was_exchanged(make_consortium: Make) -> None:
    """Even if the bank itself signed another update for the same round."""
    c = make_consortium(rounds=1)
    c.run()
    (line,) = c.store.history.lines()
    assert recompute(c.terms, line, c.store.rounds) == line.change
    change = numeric_change(c.terms, "bank-3", 1, line.base)
    other = Update("spring", 1, "bank-1", line.base, "plan-bank-1", NUM_STEPS, change)
    c.store.rounds.keep(other, seal(UPDATE, "bank-1", c.terms.context, other.to_bytes(), key_of("bank-1")))
    with pytest.raises(RunError, match="that was accepted"):
        recompute(c.terms, line, c.store.rounds)
    for content in (b"", seal(UPDATE, "bank-1", c.terms.context, other.to_bytes(), key_of("bank-2"))):
        c.store.rounds.keep(other, content)
        with pytest.raises(FedBankError):
            recompute(c.terms, line, c.store.rounds)


def test_the_history_says_who_and_how_long_and_what_weight(make_consortium: Make) -> None:
    c = make_consortium(rounds=2)
    c.run()
    for line in c.store.history.lines():
        for bank, accepted in line.accepted.items():
            assert accepted["weight"] == c.terms.weights[bank] and accepted["key"] == key_of(bank).public.hex()
            assert 0 <= accepted["seconds"] < 5 and len(accepted["digest"]) == 64
        assert line.began < line.committed and line.began.endswith("+00:00")
    assert {len(times) for times in c.store.history.seconds(5).values()} == {2}
    assert {len(times) for times in c.store.history.seconds(1).values()} == {1}


@pytest.mark.parametrize("field", ["round", "adapter", "accepted", "refused", "missing"])
def test_a_line_of_the_history_with_a_field_of_another_type_is_named(make_consortium: Make, field: str) -> None:
    c = make_consortium(rounds=2)
    c.run()
    path = c.folder / "campaign" / "history.jsonl"
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{json.dumps({**json.loads(second), field: None})}\n")
    with pytest.raises(RunError, match="line 2"):
        History(path).lines()


def test_a_status_is_read_as_it_was_written(tmp_path: Path) -> None:
    banks = {"bank-1": BankStatus(BankState.REFUSED, "2026-01-01T00:00:00+00:00", "too long")}
    status = CampaignStatus("spring", 3, 9, 2, "ab", 1, "collecting", 2, "2026", banks, "", "2026")
    assert read_status(tmp_path / "status.json") is None
    for one in (status, replace(status, round=4)):
        one.save(tmp_path / "status.json")
        assert read_status(tmp_path / "status.json") == one
    for content in ("", "[]", "{}", json.dumps({"banks": {"a": 1}})):
        (tmp_path / "status.json").write_text(content)
        with pytest.raises(RunError, match="Delete the file"):
            read_status(tmp_path / "status.json")
