"""What a global adapter can be after so many rounds: honest campaigns never pass the bound, monsters always do."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from fedbank.adapter.state import AdapterSpec, LoraPair, Released, Tensors, initial_state
from fedbank.aggregation.adapter_bounds import (
    CEILING,
    Reach,
    adapter_bound,
    check_adapter,
    largest_update,
    product_norm,
)
from fedbank.aggregation.norms import update_norm_bounds
from fedbank.aggregation.rounds import GlobalState, aggregate
from fedbank.aggregation.rules import RULES
from fedbank.aggregation.server_step import ServerStep
from fedbank.aggregation.terms import CampaignTerms
from fedbank.errors import UpdateError
from fedbank.privacy.plan import PrivacyPlan, Sampling

STEPS = {
    "mean": ServerStep(),
    "mean, a long step": ServerStep(learning_rate=2.5),
    "momentum": ServerStep("momentum", 1.0, 0.9),
    "adam": ServerStep("adam", 0.05),
    "adam, large moments": ServerStep("adam", 1.0, 0.95, 0.5, 1e-4),
}
BANKS = {"bank-a": 1.0, "bank-b": 4.0}
ROUNDS = 100


def spec_for(rule: str) -> AdapterSpec:
    pairs = (LoraPair("l.q_proj", 12, 9), LoraPair("l.v_proj", 8, 15))
    return AdapterSpec(3, 6.0, ("q_proj", "v_proj"), pairs, RULES[rule])


def updates_of(kind: str, spec: AdapterSpec, longest: float) -> Callable[[int, str, Tensors], Released]:
    """Updates of that L2 norm: all in one direction, outwards from where the adapter is, or in one value."""
    steady = np.random.default_rng(1)
    direction = {name: steady.normal(size=shape) for name, shape in spec.trainable_shapes().items()}

    def make(number: int, bank: str, adapter: Tensors) -> Released:
        chosen = {
            "steady": direction,
            "outwards": {name: adapter[name] + 1e-6 * direction[name] for name in direction},
            "one value": {name: np.eye(*value.shape) * (name == min(direction)) for name, value in direction.items()},
        }[kind]
        norm = math.sqrt(sum(float(np.square(value).sum()) for value in chosen.values()))
        return Released({name: (value * (longest / norm)).astype(np.float32) for name, value in chosen.items()})

    return make


def _sent(make: Callable[[int, str, Tensors], Released], number: int, base: Tensors, bank: str) -> Released:
    return make(number, bank, base)


@pytest.mark.parametrize("kind", ["steady", "outwards", "one value"])
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
@pytest.mark.parametrize("rule", RULES)
def test_no_campaign_of_a_hundred_rounds_passes_the_bound(rule: str, step: ServerStep, kind: str) -> None:
    spec = spec_for(rule)
    terms = CampaignTerms("c", spec, rule, step, ROUNDS, 5, BANKS, dict.fromkeys(BANKS, "p"))
    state, longest = GlobalState(0, initial_state(spec, seed=0)), 0.7
    reach, make = Reach(spec, rule, step, longest), updates_of(kind, spec, longest)
    for number in range(1, ROUNDS + 1):
        check_adapter(reach, state.adapter, number - 1)
        state, _ = aggregate(terms, state, list(BANKS), partial(_sent, make, number, state.adapter))
    check_adapter(reach, state.adapter, ROUNDS)


@pytest.mark.parametrize("rule", ["ffa", "fedsvd"])
def test_the_bound_is_reached_to_two_percent(rule: str) -> None:
    """A bound that is far above everything would show nothing."""
    spec, step, longest = spec_for(rule), ServerStep(), 0.7
    terms = CampaignTerms("c", spec, rule, step, ROUNDS, 5, BANKS, dict.fromkeys(BANKS, "p"))
    state, make = GlobalState(0, initial_state(spec, seed=0)), updates_of("outwards", spec, longest)
    for number in range(1, ROUNDS + 1):
        state, _ = aggregate(terms, state, list(BANKS), partial(_sent, make, number, state.adapter))
    norm = math.sqrt(sum(float(np.square(state.adapter[name]).sum()) for name in spec.trainable_shapes()))
    assert 0.98 * adapter_bound(Reach(spec, rule, step, longest), ROUNDS).b_entry < norm


def campaign(**changed: Any) -> dict[str, Any]:
    """The demonstration campaign's numbers, as ``largest_update`` takes them."""
    usual = {"num_parameters": 4_000, "num_steps": 5, "rounds": 12, "optimizer": "sgd", "learning_rate": 6.0}
    return usual | {"momentum": 0.0, "epsilon": 8.0, "delta": None, "clip_norm": 0.2} | changed


PLANS = {
    "usual": campaign(),
    "one round of one step": campaign(rounds=1, num_steps=1),
    "momentum": campaign(momentum=0.9),
    "epsilon of a tenth": campaign(epsilon=0.1),
    "epsilon of a hundred": campaign(epsilon=100.0),
    "a small delta": campaign(delta=1e-9),
    "many steps": campaign(rounds=100, num_steps=20),
}


@pytest.mark.parametrize("customers", [1, 31, 400])
@pytest.mark.parametrize("numbers", PLANS.values(), ids=PLANS.keys())
def test_no_banks_plan_allows_a_longer_update(numbers: dict[str, Any], customers: int) -> None:
    """Plans as banks really make them, by the exact accountant."""
    steps = numbers["num_steps"] * numbers["rounds"]
    sampling = Sampling.for_population(customers, 32, 1, steps)
    plan = PrivacyPlan.calibrate(numbers["epsilon"], numbers["delta"], sampling, numbers["clip_norm"], customers)
    named = ("num_parameters", "num_steps", "optimizer", "learning_rate", "momentum")
    longest = update_norm_bounds(*(numbers[name] for name in named), {"bank": plan})["bank"]
    assert longest <= largest_update(**numbers)


def test_terms_without_a_bound_have_the_ceiling(small_spec: AdapterSpec) -> None:
    plain = campaign(epsilon=None, clip_norm=None)
    assert largest_update(**plain) == math.inf
    assert largest_update(**plain | {"optimizer": "adam", "learning_rate": 1e-3}) < 100
    bound = adapter_bound(Reach(small_spec, "fedsvd", ServerStep(), math.inf), 3)
    assert (bound.b_entry, bound.product) == (CEILING, CEILING) and bound.a_entry < 1.01


Spoil = Callable[[dict[str, Any], LoraPair], None]


def _overflowing(state: dict[str, Any], pair: LoraPair) -> None:
    """01_padding_dp.py: a row of A that tells padding from text, and 1e20 in B."""
    state[pair.a_name][0] = 2.5
    state[pair.b_name][0, 0] = 1e20


def _cancelling(size: float) -> Spoil:
    """08_rounding.py: pairs of rows that cancel but for rounding."""

    def spoil(state: dict[str, Any], pair: LoraPair) -> None:
        weights = np.random.default_rng(0).normal(size=len(state[pair.b_name])).astype(np.float32)
        state[pair.a_name][1] = state[pair.a_name][0] * np.float32(3)
        state[pair.b_name][:, 0] = size * weights
        state[pair.b_name][:, 1] = -size * weights / 3

    return spoil


def _set(name: str, value: float) -> Spoil:
    def spoil(state: dict[str, Any], pair: LoraPair) -> None:
        state[getattr(pair, f"{name}_name")][0, 0] = value

    return spoil


MONSTERS: dict[str, tuple[Spoil, str]] = {
    "1e20 in B": (_overflowing, "every value of"),
    "rows that cancel, 1e7": (_cancelling(1e7), "every value of"),
    "rows that cancel, 1e2": (_cancelling(1e2), "every value of l.q_proj.lora_A"),
    "rows that are alike": (lambda state, pair: np.copyto(state[pair.a_name][1], state[pair.a_name][0]), "orthonormal"),
    "a value of B just above": (_set("b", 14.3), "every value of l.q_proj.lora_B"),
    "a value of A": (_set("a", 1.1), "every value of l.q_proj.lora_A"),
    "a row of A that is longer": (_set("a", 0.99), "orthonormal"),
    "the largest number": (_set("b", 3.4e38), "every value of"),
    "the smallest": (_set("b", -3.4e38), "every value of"),
    "all values of B within, their product not": (
        lambda state, pair: state[pair.b_name].fill(13.0),
        "change of l.q_proj at most",
    ),
}


@pytest.mark.parametrize(("spoil", "expected"), MONSTERS.values(), ids=MONSTERS.keys())
def test_an_adapter_that_no_round_leads_to_is_refused(spoil: Spoil, expected: str) -> None:
    spec = spec_for("fedsvd")
    reach = Reach(spec, "fedsvd", ServerStep(), 0.7)
    state = {name: tensor.copy() for name, tensor in initial_state(spec, seed=0).items()}
    check_adapter(reach, state, 20)
    spoil(state, spec.pairs[0])
    with pytest.raises(UpdateError, match=rf"Expected .*{expected}.*after 20 rounds.*Nothing was charged"):
        check_adapter(reach, state, 20)


@pytest.mark.parametrize("size", [1e7, 1e20])
def test_monsters_are_refused_where_a_is_trained_and_where_nothing_bounds_an_update(size: float) -> None:
    for rule in RULES:
        spec = spec_for(rule)
        state = {name: tensor.copy() for name, tensor in initial_state(spec, seed=0).items()}
        _cancelling(size)(state, spec.pairs[0])
        with pytest.raises(UpdateError, match="Expected"):
            check_adapter(Reach(spec, rule, ServerStep(), math.inf), state, 50)


def test_before_the_first_round_b_is_zero(small_spec: AdapterSpec) -> None:
    bound = adapter_bound(Reach(small_spec, "ffa", ServerStep(), 1e4), 0)
    assert bound.b_entry <= 1e-3 and bound.product <= 1e-2


def test_the_norm_of_a_product_is_that_of_the_product() -> None:
    rng = np.random.default_rng(0)
    for rank, wide, tall in ((1, 5, 7), (3, 8, 2), (8, 40, 30)):
        a, b = rng.normal(size=(rank, wide)), rng.normal(size=(tall, rank))
        found = product_norm(a.astype(np.float32), b.astype(np.float32))
        assert found == pytest.approx(float(np.linalg.norm(b @ a)), rel=1e-5)
    huge = np.full((2, 3), 1e20, np.float32)
    assert product_norm(huge, huge.T) == pytest.approx(6e40, rel=1e-6), "no overflow"


def test_the_bound_grows_with_rounds_steps_and_updates() -> None:
    reach = Reach(spec_for("fedavg"), "fedavg", ServerStep("momentum"), 0.7)
    bounds = [adapter_bound(reach, rounds).b_entry for rounds in (1, 2, 10, 100)]
    assert bounds == sorted(bounds) and bounds[0] < bounds[1]
    assert adapter_bound(replace(reach, largest_update=1.4), 10).b_entry > bounds[2]
    assert adapter_bound(replace(reach, step=ServerStep()), 10).b_entry < bounds[2]
