"""A member whose update is much longer than the others': what becomes of it, of the round and of the quorum."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grid_consortium import GridConsortium, adapter_after
from numeric_bank import key_of

from fedbank.adapter.state import Released
from fedbank.adapter.update import COORDINATOR, Update
from fedbank.aggregation.rounds import Phase
from fedbank.errors import RunError
from fedbank.evidence.log import EVIDENCE, EvidenceLog
from fedbank.membership.terms import DeadlineRule
from fedbank_server.evidence import EvidenceObserver
from fedbank_server.history import recompute
from fedbank_server.snapshot import BankState
from fedbank_server.store import CampaignStore

SOON = DeadlineRule(factor=1.0, floor_s=0.5, ceiling_s=0.5)
LIAR = "bank-2"
Make = Callable[..., GridConsortium]


def longer(factor: float) -> Callable[[Update], Update]:
    """The honest update, ``factor`` times as long."""

    def act(update: Update) -> Update:
        tensors = {name: np.float32(factor) * tensor for name, tensor in update.tensors.items()}
        return replace(update, tensors=Released(tensors))

    return act


def norm_of(c: GridConsortium, bank: str, factor: float = 1.0) -> float:
    """Of what the bank sent in round 1, from its own file."""
    (kept,) = c.banks[bank].folder.glob("round-1-*")
    update = Update.from_bytes(kept.read_bytes(), c.terms.adapter)
    flat = np.concatenate([tensor.ravel().astype(np.float64) for tensor in update.tensors.values()])
    return factor * float(np.linalg.norm(flat))


def test_the_others_make_the_round_and_everybody_can_read_whose_update_did_not_count(
    make_consortium: Make, tmp_path: Path
) -> None:
    c = make_consortium(banks=5, quorum=3, rounds=1, deadline=DeadlineRule())
    said = list[str]()
    log = EvidenceLog(tmp_path / EVIDENCE, "test/coordinator", key_of(COORDINATOR))
    with log:
        c.seen = EvidenceObserver(log, "spring", said.append)
        c.banks[LIAR].act = longer(8.0)
        state = c.run()
        entries = log.entries("update-left-out")
    honest = sorted(set(c.banks) - {LIAR})
    assert state.digest() == adapter_after(c, [honest])
    (line,) = c.store.history.lines()
    assert (sorted(line.accepted), list(line.left_out), line.missing) == (honest, [LIAR], [])
    norms = sorted(norm_of(c, bank) for bank in c.banks)
    kept = line.left_out[LIAR]
    assert kept["norm"] == pytest.approx(norm_of(c, LIAR), rel=1e-6)
    assert kept["bound"] == pytest.approx(1.5 * norms[2], rel=1e-6)
    assert recompute(c.terms, line, c.store.rounds) == line.change
    status = c.status.banks[LIAR]
    assert status.state is BankState.LEFT_OUT
    for text in (status.reason, *(entry.result for entry in entries), said[0]):
        assert f"{kept['norm']:.6g}" in text and f"{kept['bound']:.6g}" in text
    assert [LIAR in entry.result for entry in entries] == [True] and LIAR in said[0]
    assert all(c.status.banks[bank].state is BankState.SENT for bank in honest)


@pytest.mark.parametrize(("banks", "factor"), [(5, 1.2), (3, 8.0)], ids=["an honest length", "three banks only"])
def test_an_update_of_honest_length_counts_and_three_banks_have_no_median(
    make_consortium: Make, banks: int, factor: float
) -> None:
    c = make_consortium(banks=banks, rounds=1)
    c.banks[LIAR].act = longer(factor)
    c.run()
    (line,) = c.store.history.lines()
    assert (sorted(line.accepted), line.left_out) == (sorted(c.banks), {})


def test_the_quorum_is_one_of_updates_that_count(make_consortium: Make) -> None:
    """Four of four are in, and three of them count: below a quorum of four nothing changes, and all three are told."""
    c = make_consortium(banks=4, quorum=4, rounds=1, deadline=SOON, max_attempts=2)
    c.banks[LIAR].act = longer(8.0)
    with pytest.raises(
        RunError, match=rf"at least 4 of the 4.*got 3 in attempt 2 of 2.*{LIAR} \(left-out since 20.*no"
    ):
        c.run()
    assert c.store.load(c.terms.adapter) is None
    assert [list(attempt.missing) for attempt in _aborted(c)] == [[LIAR], [LIAR]]
    assert c.status.phase == "paused" and c.status.banks[LIAR].state is BankState.LEFT_OUT


def _aborted(c: GridConsortium) -> Any:
    record = c.store.rounds.load()
    assert record is not None and record.phase is Phase.ABORTED
    return record.aborted


def test_while_a_bank_is_waited_for_nobody_is_left_out_for_good(make_consortium: Make) -> None:
    """Two short updates first would make two honest ones long; with all five in, only the median's view counts."""
    c = make_consortium(banks=5, quorum=5, rounds=1)
    for bank, factor in (("bank-1", 0.5), ("bank-2", 0.5)):
        c.banks[bank].act = longer(factor)
    c.banks["bank-5"].seconds = 0.5
    c.run()
    (line,) = c.store.history.lines()
    assert (len(line.accepted), line.left_out) == (5, {})
    assert {bank: found.asked() for bank, found in c.banks.items()} == {bank: [1] for bank in c.banks}


def test_a_coordinator_that_begins_anew_after_the_decision_comes_to_the_same_end(make_consortium: Make) -> None:
    """Killed between the decision and the commit: what is on disk names who was left out."""
    c = make_consortium(banks=5, quorum=3, rounds=1, deadline=DeadlineRule())
    c.banks[LIAR].act = longer(8.0)
    c.run()
    (line,), record = c.store.history.lines(), c.store.rounds.load()
    assert record is not None and list(record.left_out) == [LIAR]
    folder = c.folder / "campaign"
    for undone in ("state.safetensors", "history.jsonl"):
        (folder / undone).unlink(missing_ok=True)
    for phase in (Phase.AGGREGATING, Phase.COLLECTING):
        again = json.loads((folder / "round.json").read_bytes()) | {"phase": phase.value}
        if phase is Phase.COLLECTING:
            again |= {"left_out": {}}
        (folder / "round.json").write_text(json.dumps(again))
        asked = {bank: c.banks[bank].asked() for bank in c.banks}
        assert c.run().digest() == line.adapter
        assert {bank: c.banks[bank].asked() for bank in c.banks} == asked
        (after,) = c.store.history.lines()
        assert (after.left_out, after.change) == (line.left_out, line.change)
        for undone in ("state.safetensors", "history.jsonl"):
            (folder / undone).unlink(missing_ok=True)


def test_a_simulation_in_memory_leaves_out_the_same(make_consortium: Make) -> None:
    c = make_consortium(banks=5, quorum=3, rounds=1, deadline=DeadlineRule())
    c.banks[LIAR].act = longer(8.0)
    assert c.run(store=CampaignStore(c.folder / "memory", simulated=True)).digest() == adapter_after(
        c, [sorted(set(c.banks) - {LIAR})]
    )


def test_a_share_is_limited_among_those_who_take_part(make_consortium: Make) -> None:
    """Weights 1, 2, 3: with bank-2 away, bank-3 would have three quarters; the history says what it counted."""
    c = make_consortium(rounds=1, quorum=2, deadline=SOON, max_share=0.5)
    c.grid.vanish(c.nodes["bank-2"])
    state = c.run()
    (line,) = c.store.history.lines()
    assert {bank: found["weight"] for bank, found in line.accepted.items()} == {"bank-1": 1.0, "bank-3": 1.0}
    alike = replace(c.terms, weights=dict.fromkeys(c.banks, 1.0))
    c.terms, terms = alike, c.terms
    assert state.digest() == adapter_after(c, [["bank-1", "bank-3"]])
    assert recompute(terms, line, c.store.rounds) == line.change
