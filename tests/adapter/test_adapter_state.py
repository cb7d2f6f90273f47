"""The adapter's start, its digest and its byte form."""

import numpy as np
import pytest

from fedbank.adapter.state import AdapterSpec, LoraPair, digest, from_bytes, initial_state, to_bytes
from fedbank.errors import UpdateError


def test_shapes_and_what_is_trained(small_spec: AdapterSpec) -> None:
    assert small_spec.scale == 2.0
    assert small_spec.shapes() == {
        "l.q_proj.lora_A.weight": (3, 7),
        "l.q_proj.lora_B.weight": (9, 3),
        "l.v_proj.lora_A.weight": (3, 8),
        "l.v_proj.lora_B.weight": (5, 3),
    }
    assert list(small_spec.trainable_shapes()) == ["l.q_proj.lora_B.weight", "l.v_proj.lora_B.weight"]
    both = AdapterSpec(3, 6.0, ("q_proj",), small_spec.pairs, "AB")
    assert both.trainable_shapes() == both.shapes()


def test_the_start_is_orthonormal_and_changes_nothing(small_spec: AdapterSpec) -> None:
    state = initial_state(small_spec, seed=3)
    assert {name: tensor.shape for name, tensor in state.items()} == small_spec.shapes()
    for pair in small_spec.pairs:
        a = state[pair.a_name]
        np.testing.assert_allclose(a @ a.T, np.eye(3), atol=1e-6)
        assert not state[pair.b_name].any()
        assert a.dtype == np.float32
    assert digest(state) == digest(initial_state(small_spec, seed=3)) != digest(initial_state(small_spec, seed=4))


def test_a_round_trip_is_exact(small_spec: AdapterSpec) -> None:
    state = initial_state(small_spec, seed=0)
    tensors, metadata = from_bytes(to_bytes(state, {"kind": "adapter", "n": 1}), small_spec.shapes())
    assert digest(tensors) == digest(state)
    assert metadata == {"kind": "adapter", "n": 1}


def test_bytes_do_not_depend_on_the_order_of_metadata(small_spec: AdapterSpec) -> None:
    state = initial_state(small_spec, seed=0)
    assert to_bytes(state, {"a": 1, "b": 2}) == to_bytes(state, {"b": 2, "a": 1})


@pytest.mark.parametrize("change", ["value", "name", "shape", "sign-of-zero"])
def test_the_digest_sees_every_change(change: str) -> None:
    tensors = {"a": np.zeros((2, 3), np.float32), "b": np.ones((1, 2), np.float32)}
    before = digest(tensors)
    changed = dict(tensors)
    if change == "value":
        changed["b"] = np.nextafter(tensors["b"], np.float32(2))
    elif change == "name":
        changed["c"] = changed.pop("b")
    elif change == "shape":
        changed["a"] = tensors["a"].reshape(3, 2)
    else:
        changed["a"] = -tensors["a"]
    assert digest(changed) != before
    assert digest(dict(reversed(tensors.items()))) == before


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=["nan", "inf", "minus-inf"])
def test_values_must_be_finite(small_spec: AdapterSpec, bad: float) -> None:
    state = initial_state(small_spec, seed=0)
    state["l.v_proj.lora_B.weight"][4, 2] = bad
    with pytest.raises(UpdateError, match="finite"):
        from_bytes(to_bytes(state, {}), small_spec.shapes())


def test_what_is_allocated_is_bounded_by_what_was_agreed() -> None:
    """A header may promise a terabyte: it is refused by shape before any tensor is built."""
    spec = AdapterSpec(1, 1.0, ("q",), (LoraPair("q", 2, 2),), "B")
    content = to_bytes({"q.lora_B.weight": np.zeros((2, 1), np.float32)}, {})
    with pytest.raises(UpdateError, match="shapes"):
        from_bytes(content.replace(b"[2,1]", b"[9,9]"), spec.trainable_shapes())
