"""The budget: all that a bank ever ran counts, as one composition; the round that would pass a limit is refused."""

import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest

from fedbank.errors import PrivacyError
from fedbank.privacy import budget as module
from fedbank.privacy.accounting import PrivacyEvent, compute_epsilon
from fedbank.privacy.budget import Budget, Left, Spent, merge
from fedbank.privacy.ledger import Charge, Ledger

DELTA = 1e-5
CHARGE = Charge("spring", 1, "b1", "d1", 0.05, 1.1, 5, None)
WIDE = 10_000
UNLIMITED = Budget(None, None, DELTA)


def make(campaign: str, number: int, mechanism: tuple[float, float] = (0.05, 1.1), steps: int = 5) -> Charge:
    return Charge(campaign, number, f"b{number}", f"d-{campaign}", *mechanism, steps, None)


def run_until_refused(ledger: Ledger, campaign: str, mechanism: tuple[float, float] = (0.05, 1.1)) -> int:
    """Rounds of 5 steps that the bank's budget permits."""
    for number in range(1, WIDE):
        try:
            ledger.charge(make(campaign, number, mechanism), max_steps=5 * WIDE)
        except PrivacyError as error:
            assert "limit of epsilon" in str(error) and "Nothing was trained and nothing was sent" in str(error)
            return number - 1
    raise AssertionError("never refused")


def epsilon(*events: tuple[float, float, int]) -> float:
    return compute_epsilon([PrivacyEvent(*event) for event in events], DELTA)


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_a_limit_is_a_positive_number(limit: float) -> None:
    for limits in ((limit, None), (None, limit)):
        with pytest.raises(PrivacyError, match="limit of epsilon"):
            Budget(*limits, DELTA)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, float("nan")])
def test_a_delta_is_a_small_probability(delta: float) -> None:
    with pytest.raises(PrivacyError, match="delta in"):
        Budget(8.0, 8.0, delta)


def test_without_limits_nothing_is_refused(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl", "bank-a", limit=UNLIMITED)
    for number in range(1, 30):
        assert ledger.charge(make("spring", number, (1.0, 0.5)), max_steps=WIDE)


@pytest.mark.fault(37)
def test_the_round_that_would_pass_the_limit_is_refused_and_not_charged(tmp_path: Path) -> None:
    limit = 2.0
    ledger = Ledger(tmp_path / "ledger.jsonl", "bank-a", limit=Budget(limit, None, DELTA))
    rounds = run_until_refused(ledger, "spring")
    assert len(ledger.charges()) == rounds > 3
    assert epsilon((0.05, 1.1, 5 * rounds)) <= limit < epsilon((0.05, 1.1, 5 * rounds + 5))


def test_a_plan_that_costs_exactly_the_limit_fits(tmp_path: Path) -> None:
    exact = epsilon((0.05, 1.1, 50))
    for budget in (Budget(exact, None, DELTA), Budget(None, exact, DELTA), Budget(exact, exact, DELTA)):
        ledger = Ledger(tmp_path / str(hash(budget)) / "ledger.jsonl", "bank-a", limit=budget)
        for number in range(1, 11):
            ledger.charge(make("spring", number), max_steps=50)
        assert budget.spent(ledger.charges()).epsilon == exact


def test_campaigns_and_sweeps_all_spend_from_one_budget(tmp_path: Path) -> None:
    """A search over learning rates is as many campaigns as it has runs: none of them is free."""
    limit, path = 2.0, tmp_path / "ledger.jsonl"
    budget = Budget(limit, None, DELTA)
    alone = run_until_refused(Ledger(tmp_path / "alone.jsonl", "bank-a", limit=budget), "final")
    done = 0
    for rate in ("0.001", "0.003", "0.01"):
        ledger = Ledger(path, "bank-a", limit=budget)  # every run is a process of its own
        for number in range(1, alone // 4 + 1):
            ledger.charge(make(f"sweep rate={rate}", number), max_steps=WIDE)
            done += 1
    assert run_until_refused(Ledger(path, "bank-a", limit=budget), "final") == alone - done
    spent = budget.spent(ledger.charges())
    assert (spent.rounds, spent.steps) == (alone, 5 * alone)
    assert spent.epsilon == epsilon((0.05, 1.1, 5 * alone)) <= limit
    assert spent.epsilon > 1.3 * budget.spent(ledger.charges(), "sweep rate=0.01").epsilon


def test_the_budget_counts_on_after_a_restart(tmp_path: Path) -> None:
    """Pitfall 9: a new accountant for every round or process would permit every round."""
    limit, path = 2.0, tmp_path / "ledger.jsonl"
    whole = run_until_refused(Ledger(tmp_path / "whole.jsonl", "bank-a", limit=Budget(limit, None, DELTA)), "spring")
    for number in range(1, whole + 1):
        Ledger(path, "bank-a", limit=Budget(limit, None, DELTA)).charge(make("spring", number), max_steps=WIDE)
    with pytest.raises(PrivacyError, match="over all campaigns"):
        Ledger(path, "bank-a", limit=Budget(limit, None, DELTA)).charge(make("spring", whole + 1), max_steps=WIDE)


def test_the_limit_of_a_campaign_is_its_own(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl", "bank-a", limit=Budget(None, 1.5, DELTA))
    first = run_until_refused(ledger, "spring")
    assert run_until_refused(ledger, "autumn") == first > 1
    with pytest.raises(PrivacyError, match="for one campaign"):
        ledger.charge(make("spring", first + 1), max_steps=WIDE)


def test_a_budget_that_was_lowered_below_what_is_spent_permits_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    Ledger(path, "bank-a").charge(make("spring", 1, (0.5, 0.8)), max_steps=WIDE)
    for mechanism in ((0.5, 0.8), (1e-4, 50.0)):
        with pytest.raises(PrivacyError, match="over all campaigns"):
            Ledger(path, "bank-a", limit=Budget(0.5, None, DELTA)).charge(make("x", 1, mechanism), max_steps=WIDE)


def test_compositions_cost_less_than_the_sum_of_their_epsilons(tmp_path: Path) -> None:
    """Four campaigns with epsilon 3 each make 6.2, not 12: a limit of 6.5 admits all four."""
    noise, steps = 2.03, 100  # about epsilon = 3 for 2 000 customers, 256 a step
    ledger = Ledger(tmp_path / "ledger.jsonl", "bank-a", limit=Budget(6.5, 3.1, DELTA))
    for campaign in ("a", "b", "c", "d"):
        for number in range(1, 11):
            ledger.charge(make(campaign, number, (0.128, noise), 10), max_steps=steps)
    budget = Budget(6.5, 3.1, DELTA)
    parts = [budget.spent(ledger.charges(), campaign).epsilon for campaign in "abcd"]
    total = budget.spent(ledger.charges()).epsilon
    assert total == pytest.approx(6.2, abs=0.25)
    assert sum(parts) == pytest.approx(12, abs=0.4)


@pytest.mark.parametrize("seed", range(4))
def test_comparing_steps_decides_as_asking_for_epsilon_does(seed: int) -> None:
    """Against the definition: is the composition of everything, with this charge, within both limits?"""
    rng = np.random.default_rng(seed)
    mechanisms = [(0.05, 1.1), (0.02, 0.9), (0.2, 3.0)]
    total, own = rng.uniform(1.5, 4.0), rng.uniform(1.0, 2.5)
    budget = Budget(float(total), float(own), DELTA)
    done: list[Charge] = []
    verdicts, which = [], 0
    for number in range(30):
        if number % 4 == 0:
            which = int(rng.integers(3))
        charge = make("abc"[which], number, mechanisms[which], int(rng.integers(1, 40)))
        permitted = (
            compute_epsilon(merge([*done, charge]), DELTA) <= budget.max_epsilon_total
            and compute_epsilon(merge([c for c in [*done, charge] if c.campaign == charge.campaign]), DELTA)
            <= budget.max_epsilon_per_campaign
        )
        try:
            budget.check(charge, module._steps(done))
            verdict = True
        except PrivacyError:
            verdict = False
        assert verdict == permitted, (number, charge)
        verdicts.append(verdict)
        if verdict:
            done.append(charge)
    assert {True, False} == set(verdicts)


def test_epsilon_is_asked_for_once_while_a_campaign_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[object] = []
    real = module.compute_epsilon
    monkeypatch.setattr(module, "compute_epsilon", lambda *args: (asked.append(args), real(*args))[1])
    ledger = Ledger(tmp_path / "ledger.jsonl", "bank-a", limit=Budget(4.1234, 3.9876, DELTA))
    ledger.charge(make("before", 1, (0.2, 3.0)), max_steps=5)
    ledger.charge(make("spring", 1), max_steps=150)
    asked.clear()
    began = time.perf_counter()
    for number in range(2, 31):
        ledger.charge(make("spring", number), max_steps=150)
    assert time.perf_counter() - began < 2.0
    assert asked == []


def test_events_that_differ_in_steps_only_are_merged() -> None:
    charges = [make("a", 1), make("b", 1, (0.2, 3.0)), make("a", 2, steps=7), make("b", 2)]
    assert merge(charges) == (PrivacyEvent(0.05, 1.1, 17), PrivacyEvent(0.2, 3.0, 5))
    assert merge([]) == ()
    assert merge(reversed(charges)) == merge(charges)


def test_spent_counts_rounds_charges_steps_and_their_composition() -> None:
    charges = [make("a", 1), make("a", 1), make("a", 2, steps=7), make("b", 1, (0.2, 3.0))]
    assert UNLIMITED.spent(charges, "a") == Spent(2, 3, 17, epsilon((0.05, 1.1, 17)))
    assert UNLIMITED.spent(charges) == Spent(3, 4, 22, epsilon((0.05, 1.1, 17), (0.2, 3.0, 5)))
    assert UNLIMITED.spent([]) == UNLIMITED.spent(charges, "c") == Spent(0, 0, 0, 0.0)


def test_the_steps_that_are_left_can_be_spent_and_not_one_more() -> None:
    budget = Budget(2.5, 2.0, DELTA)
    charges = [make("a", 1), make("b", 1, (0.2, 3.0), 40), make("a", 2)]
    for campaign, mechanism in (("a", (0.05, 1.1)), ("b", (0.2, 3.0))):
        left = budget.left(charges, campaign)
        assert left.steps is not None and left.steps > 0
        last, beyond = (make(campaign, 9, mechanism, left.steps + more) for more in (0, 1))
        whole = [[*charges, one] for one in (last, beyond)]
        own = [[one for one in some if one.campaign == campaign] for some in whole]
        for some, fits in zip(zip(whole, own, strict=True), (True, False), strict=True):
            spent = [compute_epsilon(merge(events), DELTA) for events in some]
            assert (spent[0] <= 2.5 and spent[1] <= 2.0) == fits
        budget.check(make(campaign, 9, mechanism, left.steps), module._steps(charges))
        with pytest.raises(PrivacyError):
            budget.check(make(campaign, 9, mechanism, left.steps + 1), module._steps(charges))


def test_what_is_left_of_epsilon_is_the_tighter_of_both_limits() -> None:
    charges = [make("a", 1), make("b", 1, (0.2, 3.0), 40)]
    total, own = UNLIMITED.spent(charges).epsilon, UNLIMITED.spent(charges, "a").epsilon
    assert Budget(3.0, None, DELTA).left(charges) == Left(3.0 - total, None)
    assert Budget(None, 3.0, DELTA).left(charges) == UNLIMITED.left(charges) == Left(None, None)
    assert Budget(3.0, None, DELTA).left(charges, "a").epsilon == 3.0 - total
    assert Budget(None, 3.0, DELTA).left(charges, "a").epsilon == 3.0 - own
    assert Budget(3.0, 2.0, DELTA).left(charges, "a").epsilon == min(3.0 - total, 2.0 - own)
    assert UNLIMITED.left(charges, "a") == Left(None, None)
    assert Budget(0.01, 0.01, DELTA).left(charges, "a") == Left(0.0, 0)
    assert Budget(3.0, None, DELTA).left(charges, "new") == Left(3.0 - total, None)


def test_steps_that_cost_next_to_nothing_are_bounded_too() -> None:
    began = time.perf_counter()
    left = Budget(5.0, None, DELTA).left([make("a", 1, (1e-5, 100.0))], "a")
    assert left.steps == 2**20 - 5
    assert time.perf_counter() - began < 20


def test_over_time_epsilon_only_grows_and_ends_at_what_is_spent() -> None:
    charges = [
        dataclasses.replace(make("ab"[n % 2], n, [(0.05, 1.1), (0.2, 3.0)][n % 2]), time=f"2026-01-{n + 1:02d}")
        for n in range(20)
    ]
    moments = UNLIMITED.over_time(charges)
    values = [moment.epsilon for moment in moments]
    assert [moment.time for moment in moments] == [charge.time for charge in charges]
    assert values == sorted(values) and values[0] == UNLIMITED.spent(charges[:1]).epsilon
    assert values[7] == UNLIMITED.spent(charges[:8]).epsilon
    assert values[-1] == UNLIMITED.spent(charges).epsilon
    few = UNLIMITED.over_time(charges, points=6)
    assert [moment.time[-2:] for moment in few] == ["04", "08", "12", "16", "20"]
    assert few == [moment for moment in moments if moment in few]
    assert UNLIMITED.over_time(charges[:7], points=3)[-1].time == charges[6].time
    assert UNLIMITED.over_time([], points=3) == []
