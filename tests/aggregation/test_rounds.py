"""The round as a state machine: what it refuses, and that the order of arrival does not matter."""

import dataclasses
from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from fedbank.adapter.state import AdapterSpec, digest
from fedbank.adapter.update import Update
from fedbank.aggregation.rounds import CampaignTerms, GlobalState, Round
from fedbank.aggregation.rules import average
from fedbank.aggregation.server_step import ServerStep
from fedbank.errors import UpdateError

WEIGHTS = {"bank-a": 1.0, "bank-b": 2.5, "bank-c": 0.5}


@pytest.fixture
def terms(small_spec: AdapterSpec) -> CampaignTerms:
    plans = {bank: f"plan-{bank}" for bank in WEIGHTS}
    return CampaignTerms("spring", small_spec, "fedsvd", ServerStep("momentum"), 4, 5, WEIGHTS, plans)


@pytest.fixture
def state(small_spec: AdapterSpec, make_state: Callable[..., dict[str, Any]]) -> GlobalState:
    return GlobalState(2, make_state(small_spec, 0))


def _update(terms: CampaignTerms, state: GlobalState, bank: str, seed: int = 0) -> Update:
    rng = np.random.default_rng([seed, *bank.encode()])
    tensors = {n: rng.normal(size=s).astype(np.float32) for n, s in terms.adapter.trainable_shapes().items()}
    return Update("spring", state.round + 1, bank, state.digest(), f"plan-{bank}", 5, tensors)


REFUSED = {
    "stranger": {"bank": "bank-x"},
    "other-campaign": {"campaign": "autumn"},
    "round-before": {"round": 2},
    "round-after": {"round": 4},
    "other-base": {"base_digest": "0" * 64},
    "fewer-steps": {"num_steps": 4},
    "more-steps": {"num_steps": 6},
    "other-plan": {"plan_digest": "plan-bank-b"},
    "in-the-name-of-another": {"bank": "bank-b"},
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED.keys())
def test_what_does_not_belong_to_the_round_is_refused(
    terms: CampaignTerms, state: GlobalState, change: dict[str, Any]
) -> None:
    current = Round(terms, state)
    with pytest.raises(UpdateError, match="not used"):
        current.admit(dataclasses.replace(_update(terms, state, "bank-a"), **change))
    assert current.missing == set(WEIGHTS)
    current.admit(_update(terms, state, "bank-a"))
    assert current.missing == {"bank-b", "bank-c"}


def test_a_second_update_of_a_bank_is_refused_and_the_first_counts(terms: CampaignTerms, state: GlobalState) -> None:
    current, reference = Round(terms, state), Round(terms, state)
    for bank in WEIGHTS:
        current.admit(_update(terms, state, bank))
        reference.admit(_update(terms, state, bank))
    with pytest.raises(UpdateError, match="second"):
        current.admit(_update(terms, state, "bank-a", seed=9))
    assert current.commit()[0].digest() == reference.commit()[0].digest()


def test_committing_while_updates_are_missing_raises(terms: CampaignTerms, state: GlobalState) -> None:
    current = Round(terms, state)
    current.admit(_update(terms, state, "bank-a"))
    with pytest.raises(ValueError, match="bank-b"):
        current.commit()


@pytest.mark.parametrize("order", permutations(WEIGHTS), ids="-".join)
def test_the_order_of_arrival_does_not_change_a_bit(
    terms: CampaignTerms, state: GlobalState, order: tuple[str, ...]
) -> None:
    """Two updates that cancel are so large that a sum in fp64 loses the third, or not, depending on the order."""
    updates = {bank: _update(terms, state, bank) for bank in WEIGHTS}
    large = {name: np.full_like(tensor, 1e17) for name, tensor in updates["bank-a"].tensors.items()}
    updates["bank-a"] = dataclasses.replace(updates["bank-a"], tensors=large)
    cancelling = {name: -2 * tensor for name, tensor in large.items()}  # weights 1 and 0.5
    updates["bank-c"] = dataclasses.replace(updates["bank-c"], tensors=cancelling)

    def committed(banks: tuple[str, ...]) -> GlobalState:
        current = Round(dataclasses.replace(terms, rule="ffa"), state)
        for bank in banks:
            current.admit(updates[bank])
        return current.commit()[0]

    ours, reference = committed(order), committed(tuple(WEIGHTS))
    assert ours.digest() == reference.digest()
    assert digest(ours.step.first) == digest(reference.step.first)


def test_the_change_is_the_publicly_weighted_average(terms: CampaignTerms, state: GlobalState) -> None:
    plain = dataclasses.replace(terms, rule="ffa", server_step=ServerStep("mean"))
    current = Round(plain, state)
    for bank in WEIGHTS:
        current.admit(_update(plain, state, bank))
    after, change = current.commit()
    expected = average([_update(plain, state, bank).tensors for bank in WEIGHTS], list(WEIGHTS.values()))
    assert after.round == 3
    for name in expected:
        np.testing.assert_allclose(change[name], expected[name], rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(after.adapter[name], state.adapter[name] + expected[name], rtol=1e-5, atol=1e-6)
    for pair in terms.adapter.pairs:
        assert np.array_equal(after.adapter[pair.a_name], state.adapter[pair.a_name])


def test_two_rounds_of_fedsvd_with_momentum_give_the_products_of_the_unrotated_rounds(
    terms: CampaignTerms, state: GlobalState
) -> None:
    """Round two's changes are those of the unrotated run, expressed in the rotated coordinates."""
    svd, ffa = terms, dataclasses.replace(terms, rule="ffa")
    rotated, plain = state, state
    for seed in (1, 2):
        turns = {p.b_name: plain.adapter[p.a_name] @ rotated.adapter[p.a_name].T for p in terms.adapter.pairs}
        rounds = Round(svd, rotated), Round(ffa, plain)
        for bank in WEIGHTS:
            update = _update(ffa, plain, bank, seed)
            turned = {name: tensor @ turns[name] for name, tensor in update.tensors.items()}
            rounds[0].admit(dataclasses.replace(update, base_digest=rotated.digest(), tensors=turned))
            rounds[1].admit(update)
        rotated, plain = rounds[0].commit()[0], rounds[1].commit()[0]
    for pair in terms.adapter.pairs:
        np.testing.assert_allclose(
            rotated.adapter[pair.b_name] @ rotated.adapter[pair.a_name],
            plain.adapter[pair.b_name] @ plain.adapter[pair.a_name],
            atol=1e-4,
        )
    assert rotated.round == plain.round == 4
