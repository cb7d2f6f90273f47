"""Aggregation: the weighted mean, and a re-factorisation that changes coordinates and nothing else."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fedbank.adapter.state import AdapterSpec, digest, initial_state
from fedbank.aggregation.rules import RULES, average, refactor
from fedbank.aggregation.server_step import ServerStep, StepState, apply_step

State = dict[str, Any]


def _updates(spec: AdapterSpec, count: int) -> list[State]:
    rng = np.random.default_rng(count)
    return [
        {name: rng.normal(size=shape).astype(np.float32) for name, shape in spec.trainable_shapes().items()}
        for _ in range(count)
    ]


def _product(spec: AdapterSpec, state: State, pair: int) -> Any:
    names = spec.pairs[pair]
    return state[names.b_name].astype(np.float64) @ state[names.a_name].astype(np.float64)


@pytest.mark.parametrize(
    "weights", [[1.0], [1.0, 1.0], [1.0, 3.0, 0.5], [1e-3, 2e-3], [5.0, 0.0]], ids=lambda weights: str(weights)
)
def test_average_is_the_weighted_mean(small_spec: AdapterSpec, weights: list[float]) -> None:
    updates = _updates(small_spec, len(weights))
    mean = average(updates, weights)
    for name in updates[0]:
        expected = np.average(np.stack([u[name] for u in updates]).astype(np.float64), axis=0, weights=weights)
        np.testing.assert_allclose(mean[name], expected, rtol=1e-6, atol=1e-7)
        assert mean[name].dtype == np.float32


def test_average_is_accumulated_in_double_precision() -> None:
    """1, then 10 000 times 2^-25: single precision would drop every small one."""
    updates = [{"b": np.array([1.0], np.float32)}] + [{"b": np.array([2.0**-25], np.float32)}] * 10_000
    assert average(updates, [1.0] * 10_001)["b"][0] * 10_001 == pytest.approx(1 + 10_000 * 2.0**-25, rel=1e-6)


@pytest.mark.parametrize("case", ["random", "b-zero", "rank-one", "a-not-orthonormal", "tiny", "large"])
def test_refactor_keeps_the_product_and_the_row_space(
    small_spec: AdapterSpec, make_state: Callable[..., State], case: str
) -> None:
    state = make_state(small_spec, 2)
    for pair in small_spec.pairs:
        b, rng = state[pair.b_name], np.random.default_rng(1)
        factor = {"b-zero": 0.0, "tiny": 1e-6, "large": 1e4}.get(case, 1.0)
        state[pair.b_name] = (b * factor).astype(np.float32)
        if case == "rank-one":
            state[pair.b_name] = np.outer(b[:, 0], [1, 2, 3]).astype(np.float32)
        if case == "a-not-orthonormal":
            state[pair.a_name] = rng.normal(size=state[pair.a_name].shape).astype(np.float32)
    new, rotations = refactor(small_spec, state)
    assert {name: tensor.shape for name, tensor in new.items()} == small_spec.shapes()
    for index, pair in enumerate(small_spec.pairs):
        before, a = _product(small_spec, state, index), new[pair.a_name].astype(np.float64)
        scale = max(np.abs(before).max(), 1e-12)
        np.testing.assert_allclose(_product(small_spec, new, index) / scale, before / scale, atol=2e-6)
        np.testing.assert_allclose(a @ a.T, np.eye(3), atol=1e-6)
        old_a = state[pair.a_name].astype(np.float64)
        np.testing.assert_allclose(old_a @ a.T @ a, old_a, atol=1e-5)
        b = new[pair.b_name]
        np.testing.assert_allclose(b / scale, state[pair.b_name] @ rotations[pair.b_name] / scale, atol=1e-5)
        columns = np.linalg.norm(b, axis=0)
        assert (np.diff(columns) <= 1e-6 * scale).all()
        assert all(np.isfinite(tensor).all() for tensor in new.values())


def test_signs_are_fixed_whatever_the_signs_of_the_factors(
    small_spec: AdapterSpec, make_state: Callable[..., State]
) -> None:
    state = make_state(small_spec, 4)
    flipped = dict(state)
    for pair in small_spec.pairs:
        signs = np.array([1, -1, -1], np.float32)
        flipped[pair.a_name] = signs[:, None] * state[pair.a_name]
        flipped[pair.b_name] = state[pair.b_name] * signs
    ours, theirs = refactor(small_spec, state)[0], refactor(small_spec, flipped)[0]
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5)
        if "lora_A" in name:
            assert (ours[name][np.arange(3), np.abs(ours[name]).argmax(axis=1)] > 0).all()
    assert digest(refactor(small_spec, state)[0]) == digest(ours)


def test_refactoring_twice_changes_nothing_more(small_spec: AdapterSpec, make_state: Callable[..., State]) -> None:
    once = refactor(small_spec, make_state(small_spec, 4))[0]
    twice, rotations = refactor(small_spec, once)
    for name in once:
        np.testing.assert_allclose(twice[name], once[name], atol=1e-5)
    for rotation in rotations.values():
        np.testing.assert_allclose(rotation, np.eye(3), atol=1e-5)


def test_momentum_in_rotated_coordinates_follows_the_same_path(small_spec: AdapterSpec) -> None:
    """Three rounds with momentum; the banks' change is a fixed function of the product BA and of A's row space.

    One trajectory stays in the first coordinates, the other is re-factorised after every round: the products agree.
    """
    step = ServerStep("momentum", learning_rate=0.7, beta1=0.9)
    rng = np.random.default_rng(0)
    targets = [rng.normal(size=(pair.num_out, pair.num_in)) for pair in small_spec.pairs]

    def gradient(state: State) -> State:
        return {
            pair.b_name: ((targets[i] - _product(small_spec, state, i)) @ state[pair.a_name].T).astype(np.float32)
            for i, pair in enumerate(small_spec.pairs)
        }

    plain = rotated = initial_state(small_spec, seed=0)
    plain_step = rotated_step = StepState()
    for number in range(3):
        plain, plain_step = apply_step(step, plain_step, plain, gradient(plain))
        rotated, rotated_step = apply_step(step, rotated_step, rotated, gradient(rotated))
        rotated, rotations = refactor(small_spec, rotated)
        rotated_step = rotated_step.rotated(rotations)
        for index in range(len(small_spec.pairs)):
            np.testing.assert_allclose(
                _product(small_spec, rotated, index), _product(small_spec, plain, index), atol=2e-5, err_msg=str(number)
            )
    assert not np.allclose(rotated[small_spec.pairs[0].b_name], plain[small_spec.pairs[0].b_name], atol=1e-2)


def test_every_rule_says_what_banks_train() -> None:
    assert RULES == {"fedavg": "AB", "ffa": "B", "fedsvd": "B"}
