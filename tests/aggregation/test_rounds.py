"""The round as a state machine: when it waits, commits or gives up, and that the order of arrival does not matter."""

import dataclasses
from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from fedbank.adapter.state import AdapterSpec, Released, digest
from fedbank.aggregation.admit import Refused
from fedbank.aggregation.rounds import Accepted, Decision, GlobalState, Phase, Round, aggregate
from fedbank.aggregation.rules import average
from fedbank.aggregation.server_step import ServerStep
from fedbank.aggregation.terms import CampaignTerms
from fedbank.errors import ConfigError

WEIGHTS = {"bank-a": 1.0, "bank-b": 2.5, "bank-c": 0.5}
A, B, C = WEIGHTS


@pytest.fixture
def terms(small_spec: AdapterSpec) -> CampaignTerms:
    plans = {bank: f"plan-{bank}" for bank in WEIGHTS}
    return CampaignTerms("spring", small_spec, "fedsvd", ServerStep("momentum"), 4, 5, WEIGHTS, plans, max_share=1.0)


@pytest.fixture
def state(small_spec: AdapterSpec, make_state: Callable[..., dict[str, Any]]) -> GlobalState:
    return GlobalState(2, make_state(small_spec, 0))


def _released(terms: CampaignTerms, bank: str, seed: int = 0) -> Released:
    rng = np.random.default_rng([seed, *bank.encode()])
    shapes = terms.adapter.trainable_shapes()
    return Released({name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()})


def _collecting(*banks: str, allowed_s: float | None = None, began: float = 1000.0) -> Round:
    record = Round(3, "base", began).collect(began, allowed_s)
    for bank in banks:
        record = record.accept(bank, Accepted("d", "k", 10, 1.0))
    return record


ALL = frozenset(WEIGHTS)
DECISIONS = {
    # name: (sent, refusing, possible, needed, seconds after the start; deadline after 60) -> decision
    "nobody yet": ((), (), ALL, 2, 0, Decision.WAIT),
    "a quorum is in, one bank is still at work": ((A, B), (), ALL, 2, 59.9, Decision.WAIT),
    "all are in": ((A, B, C), (), ALL, 2, 1, Decision.AGGREGATE),
    "a quorum is in and the last bank refused": ((A, B), (C,), ALL, 2, 1, Decision.AGGREGATE),
    "a quorum is in and the last bank was revoked": ((A, B), (), {A, B}, 2, 1, Decision.AGGREGATE),
    "a quorum at the deadline": ((A, B), (), ALL, 2, 60, Decision.AGGREGATE),
    "a quorum long after the deadline": ((A, B), (), ALL, 2, 1e6, Decision.AGGREGATE),
    "below the quorum at the deadline": ((A,), (), ALL, 2, 60, Decision.ABORT),
    "nobody at the deadline": ((), (), ALL, 1, 60, Decision.ABORT),
    "below the quorum just before": ((A,), (), ALL, 2, 59.9, Decision.WAIT),
    "the quorum is out of reach": ((A,), (B, C), ALL, 2, 1, Decision.ABORT),
    "the quorum is just within reach": ((A,), (B,), ALL, 2, 1, Decision.WAIT),
    "all are needed and one refused": ((A, B), (C,), ALL, 3, 1, Decision.ABORT),
}


@pytest.mark.parametrize("row", DECISIONS.values(), ids=DECISIONS.keys())
def test_quorum_and_deadline_decide(row: Any) -> None:
    sent, refusing, possible, needed, after, decision = row
    record = _collecting(*sent, allowed_s=60.0)
    for bank in refusing:
        record = record.refuse(Refused(bank, "refusal", "no"), final=True)
    assert record.decide(1000.0 + after, needed, possible) is decision


@pytest.mark.parametrize("after", [0.0, 1e9])
def test_without_a_deadline_a_round_waits(after: float) -> None:
    assert _collecting(A, B).decide(1000.0 + after, 2, ALL) is Decision.WAIT


def test_what_is_late_or_a_second_time_does_not_rule_a_bank_out() -> None:
    record = _collecting().refuse(Refused(A, "late", "too late"), final=False)
    assert (record.refusing, len(record.refused)) == ((), 1)


RESTARTS = {
    # name: (seconds after the start at which the coordinator is back) -> seconds that are left of 600, grace 60
    "at once": (1.0, 599.0),
    "in the middle": (300.0, 300.0),
    "shortly before the end": (590.0, 60.0),
    "long after the end": (90_000.0, 60.0),
    "the clock was set back a day": (-86_400.0, 600.0),
}


@pytest.mark.parametrize(("back", "left"), RESTARTS.values(), ids=RESTARTS.keys())
def test_a_restart_neither_forgets_nor_doubles_the_deadline(back: float, left: float) -> None:
    now = 1000.0 + back
    record = _collecting(A, allowed_s=600.0).resumed(now, 60.0)
    assert record.deadline is not None and record.deadline - now == pytest.approx(left)
    assert record.resumed(now, 60.0) == record


def test_an_aborted_round_is_tried_again_with_what_is_there_and_given_up_after_the_last_attempt() -> None:
    record, attempts = _collecting(A, allowed_s=60.0), 0
    record = record.refuse(Refused(B, "refusal", "no"), final=True)
    while True:
        attempts += 1
        record = record.abort(1060.0, {B: "refused", C: "offline"})
        if record.exhausted(3):
            break
        record = record.retry(new_series=False)
        assert (record.refusing, set(record.accepted), record.number, record.base_digest) == ((), {A}, 3, "base")
        record = record.collect(1060.0, 120.0)
    assert (attempts, record.attempt, [a.attempt for a in record.aborted]) == (3, 3, [1, 2, 3])
    assert record.aborted[0].missing == {B: "refused", C: "offline"}
    again = record.retry(new_series=True).collect(2000.0, 60.0)
    assert (again.attempt, again.retries) == (4, 0)
    assert not again.abort(2060.0, {}).exhausted(3)


ILLEGAL: dict[str, Callable[[], object]] = {
    "committed twice": lambda: _collecting(A).aggregate().committed().committed(),
    "committed without being aggregated": lambda: _collecting(A).committed(),
    "an update after the cut": lambda: _collecting(A).aggregate().accept(B, Accepted("d", "k", 1, 1.0)),
    "a bank twice": lambda: _collecting(A).accept(A, Accepted("d", "k", 1, 1.0)),
    "aborted after the cut": lambda: _collecting(A).aggregate().abort(0.0, {}),
    "tried again while it goes on": lambda: _collecting(A).retry(new_series=False),
    "collected twice": lambda: _collecting(A).collect(0.0, None),
    "decided after the cut": lambda: _collecting(A).aggregate().decide(0.0, 1, ALL),
}


@pytest.mark.parametrize("step", ILLEGAL.values(), ids=ILLEGAL.keys())
def test_a_step_that_the_phase_does_not_have_raises(step: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"expected a round|is in already"):
        step()


def test_refusals_without_end_do_not_fill_the_record() -> None:
    record = _collecting()
    for _ in range(1000):
        record = record.refuse(Refused(A, "signature", "no"), final=False)
    assert (len(record.refused), record.refused_more) == (100, 900)


TERMS = {
    "no weight": {"weights": {A: 1.0, B: 0.0, C: 1.0}},
    "a negative weight": {"weights": {A: 1.0, B: -1.0, C: 1.0}},
    "an infinite weight": {"weights": {A: 1.0, B: float("inf"), C: 1.0}},
    "a plan missing": {"plans": {A: "p"}},
    "no quorum": {"quorum": 0},
    "a quorum of more than all": {"quorum": 4},
    "no attempt": {"max_attempts": 0},
    "no norm": {"max_update_norm": float("nan")},
    "a norm that is none": {"norm_bounds": {A: float("nan")}},
    "a norm of nobody": {"norm_bounds": {"bank-z": 1.0}},
}


@pytest.mark.parametrize("change", TERMS.values(), ids=TERMS.keys())
def test_terms_that_cannot_hold_are_refused(terms: CampaignTerms, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="Expected"):
        dataclasses.replace(terms, **change)


def test_of_all_banks_only_the_active_ones_are_needed(terms: CampaignTerms) -> None:
    assert [terms.needed(active) for active in (3, 2, 0)] == [3, 2, 1]
    assert [dataclasses.replace(terms, quorum=2).needed(active) for active in (3, 1)] == [2, 2]


@pytest.mark.parametrize("order", permutations(WEIGHTS), ids="-".join)
def test_the_order_of_arrival_does_not_change_a_bit(
    terms: CampaignTerms, state: GlobalState, order: tuple[str, ...]
) -> None:
    """Two updates that cancel are so large that a sum in fp64 loses the third, or not, depending on the order."""
    updates = {bank: _released(terms, bank) for bank in WEIGHTS}
    updates[A] = Released({name: np.full_like(tensor, 1e17) for name, tensor in updates[A].items()})
    updates[C] = Released({name: -2 * tensor for name, tensor in updates[A].items()})  # weights 1 and 0.5
    plain = dataclasses.replace(terms, rule="ffa")
    ours, _ = aggregate(plain, state, order, updates.__getitem__)
    reference, _ = aggregate(plain, state, tuple(WEIGHTS), updates.__getitem__)
    assert ours.digest() == reference.digest()
    assert digest(ours.step.first) == digest(reference.step.first)


@pytest.mark.parametrize("banks", [(A, B, C), (A, B), (C,)], ids="-".join)
def test_the_change_is_the_publicly_weighted_average(
    terms: CampaignTerms, state: GlobalState, banks: tuple[str, ...]
) -> None:
    """Of those who took part: their weights are divided by their sum."""
    plain = dataclasses.replace(terms, rule="ffa", server_step=ServerStep("mean"))
    after, change = aggregate(plain, state, banks, lambda bank: _released(plain, bank))
    total = sum(WEIGHTS[bank] for bank in banks)
    assert after.round == 3
    for name in plain.adapter.trainable_shapes():
        parts = [WEIGHTS[bank] / total * _released(plain, bank)[name].astype(np.float64) for bank in banks]
        np.testing.assert_allclose(change[name], sum(parts), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(after.adapter[name], state.adapter[name] + sum(parts), rtol=1e-5, atol=1e-6)
    for pair in terms.adapter.pairs:
        assert np.array_equal(after.adapter[pair.a_name], state.adapter[pair.a_name])


def test_one_update_is_in_memory_at_a_time(terms: CampaignTerms) -> None:
    """The one before is let go before the next one is made."""
    alive: list[int] = []

    class Counted(dict[str, Any]):
        def __init__(self, bank: str) -> None:
            super().__init__(_released(terms, bank))
            alive.append(1)
            most.append(len(alive))

        def __del__(self) -> None:
            alive.pop()

    most: list[int] = []
    average((Released(Counted(bank)) for bank in WEIGHTS), list(WEIGHTS.values()))
    assert most == [1, 1, 1]


def test_two_rounds_of_fedsvd_with_momentum_give_the_products_of_the_unrotated_rounds(
    terms: CampaignTerms, state: GlobalState
) -> None:
    """Round two's changes are those of the unrotated run, expressed in the rotated coordinates."""
    svd, ffa = terms, dataclasses.replace(terms, rule="ffa")
    rotated, plain = state, state
    for seed in (1, 2):
        turns = {p.b_name: plain.adapter[p.a_name] @ rotated.adapter[p.a_name].T for p in terms.adapter.pairs}
        updates = {bank: _released(ffa, bank, seed) for bank in WEIGHTS}
        turned = {b: Released({name: t @ turns[name] for name, t in update.items()}) for b, update in updates.items()}
        rotated, _ = aggregate(svd, rotated, WEIGHTS, turned.__getitem__)
        plain, _ = aggregate(ffa, plain, WEIGHTS, updates.__getitem__)
    for pair in terms.adapter.pairs:
        np.testing.assert_allclose(
            rotated.adapter[pair.b_name] @ rotated.adapter[pair.a_name],
            plain.adapter[pair.b_name] @ plain.adapter[pair.a_name],
            atol=1e-4,
        )
    assert rotated.round == plain.round == 4


def test_phases_are_written_as_words() -> None:
    assert [phase.value for phase in Phase] == ["planned", "collecting", "aggregating", "committed", "aborted"]
