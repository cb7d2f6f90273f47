"""Server steps against sequences worked out by hand."""

import numpy as np
import pytest

from fedbank.aggregation.server_step import STEPS, ServerStep, StepState, apply_step

# Changes 1, then 2, then -4 from adapter 10. Adam: beta1 0.5, beta2 0.75, tau 0.5, learning rate 2.
#   m: 0.5, 1.25, -1.375     v: 0.25, 1.1875, 4.890625     x += 2 m / (sqrt(v) + 0.5)
SEQUENCES = [
    (ServerStep("mean"), [11.0, 13.0, 9.0]),
    (ServerStep("mean", learning_rate=0.5), [10.5, 11.5, 9.5]),
    (ServerStep("momentum", beta1=0.5), [11.0, 13.5, 10.75]),
    (ServerStep("momentum", learning_rate=0.1, beta1=0.9), [10.1, 10.39, 10.251]),
    (ServerStep("adam", learning_rate=2.0, beta1=0.5, beta2=0.75, tau=0.5), [11.0, 12.5725993, 11.5583914]),
]


@pytest.mark.parametrize(("step", "expected"), SEQUENCES, ids=lambda value: str(getattr(value, "kind", "")))
def test_steps_by_hand(step: ServerStep, expected: list[float]) -> None:
    adapter, state = {"b": np.full((1, 1), 10.0, np.float32)}, StepState()
    for change, value in zip((1.0, 2.0, -4.0), expected, strict=True):
        adapter, state = apply_step(step, state, adapter, {"b": np.full((1, 1), change, np.float32)})
        assert float(adapter["b"][0, 0]) == pytest.approx(value, rel=1e-6)
        assert adapter["b"].dtype == np.float32


def test_every_kind_is_tested() -> None:
    assert {step.kind for step, _ in SEQUENCES} == set(STEPS)


@pytest.mark.parametrize("kind", STEPS)
def test_inputs_are_left_alone_and_frozen_tensors_too(kind: str) -> None:
    adapter = {"a": np.ones((2, 2), np.float32), "b": np.ones((2, 2), np.float32)}
    change, state = {"b": np.ones((2, 2), np.float32)}, StepState()
    updated, after = apply_step(ServerStep(kind), state, adapter, change)
    assert (adapter["b"] == 1).all() and (change["b"] == 1).all() and state == StepState()
    assert (updated["a"] == 1).all()
    assert (updated["b"] > 1).all()
    again, _ = apply_step(ServerStep(kind), after, updated, change)
    repeat, _ = apply_step(ServerStep(kind), after, updated, change)
    assert np.array_equal(again["b"], repeat["b"])


def test_moments_rotate_with_the_coordinates() -> None:
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    state = StepState({"b": np.array([[1, 2]], np.float32), "a": np.ones((1, 2), np.float32)}, {"b": np.ones((1, 2))})
    rotated = state.rotated({"b": turn})
    np.testing.assert_allclose(rotated.first["b"], [[2.2, 0.4]], rtol=1e-6)
    np.testing.assert_allclose(rotated.first["a"], [[1, 1]])
    np.testing.assert_allclose(rotated.second["b"], [[1, 1]], rtol=1e-6)
    assert (state.rotated({"b": np.array([[0.0, 1.0], [1.0, 0.0]])}).first["b"] == [[2, 1]]).all()
