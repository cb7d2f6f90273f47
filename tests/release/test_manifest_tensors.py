"""What all layers have alike is written once in a manifest, and stands for exactly the same tensors."""

import time
from dataclasses import replace

import pytest
from release_world import manifest_of

from fedbank.release.errors import ReleaseError
from fedbank.release.manifest import Manifest
from fedbank.release.tensors import MAX_TENSORS, expanded, written

_Q, _K = "model.layers.{}.self_attn.q_proj", "model.layers.{}.self_attn.k_proj"


def _shapes(*layers: int, last: int = 8) -> dict[str, tuple[int, int]]:
    found = {_Q.format(layer): (4, 16) for layer in layers}
    return {**found, **{_K.format(layer): (last if layer == layers[-1] else 8, 4) for layer in layers}}


def _manifest(tensors: dict[str, list[int]], layers: list[int]) -> Manifest:
    made = manifest_of("spring-1", 0.5)
    return replace(made, adapter={**made.adapter, "tensors": tensors, "layers": layers})


def test_layers_that_are_alike_are_one_line() -> None:
    assert written(_shapes(0, 1, 23), [0, 1, 23]) == {_Q.format("*"): [4, 16], _K.format("*"): [8, 4]}


@pytest.mark.parametrize(
    ("shapes", "layers"),
    [
        (_shapes(0, 1, 23), [0, 1, 23]),
        (_shapes(5), [5]),
        (_shapes(0, 1, last=9), [0, 1]),  # the layers are not alike
        (_shapes(0, 1), [0, 1, 2]),  # a layer has none of them
        (_shapes(0, 1, 2), [0, 1]),  # a tensor of another layer
        ({"a.weight": (1, 2), **_shapes(0, 1)}, [0, 1]),
        ({"layers.0.b": (1, 2), "x.layers.01.b": (1, 2)}, [0, 1]),
        ({"x.layers.1.y.layers.1.z": (1, 2), "x.layers.0.y.layers.1.z": (1, 2)}, [0, 1]),
    ],
)
def test_what_is_written_stands_for_the_same_tensors(shapes: dict[str, tuple[int, int]], layers: list[int]) -> None:
    tensors = written(shapes, layers)
    assert expanded(tensors, layers) == shapes
    read = Manifest.from_bytes(_manifest(tensors, layers).to_bytes())
    assert read.shapes() == shapes


@pytest.mark.parametrize(
    ("tensors", "layers", "why"),
    [
        ({_Q.format("*"): [4, 16], _Q.format("1"): [4, 16]}, [0, 1], "a tensor twice"),
        ({_Q.format("*"): [4, 16]}, [0, 0], "a tensor twice"),
        ({_Q.format("*"): [4, 16]}, [], "no tensors"),
        ({_Q.format("*"): [4, 16]}, list(range(MAX_TENSORS + 1)), "more than 32768 tensors"),
        ({_Q.format("*"): [4]}, [0], "no shape of two sizes"),
    ],
)
def test_what_stands_for_no_adapter_is_refused(tensors: dict[str, list[int]], layers: list[int], why: str) -> None:
    with pytest.raises(ReleaseError, match=why):
        Manifest.from_bytes(_manifest(tensors, layers).to_bytes())


def test_a_manifest_that_stands_for_endless_tensors_is_refused_at_once() -> None:
    tensors = {f"m{number}.layers.*.w": [1, 1] for number in range(10_000)}
    content = _manifest(tensors, list(range(80_000))).to_bytes()
    began = time.process_time()
    with pytest.raises(ReleaseError, match="more than 32768 tensors"):
        Manifest.from_bytes(content)
    assert time.process_time() - began < 5


def test_the_manifest_of_a_large_model_is_small() -> None:
    modules = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    ends = [f"mlp.{module}.lora_{matrix}.weight" for module in modules for matrix in "AB"]
    shapes = {f"base_model.model.model.layers.{layer}.{end}": (16, 8192) for layer in range(80) for end in ends}
    assert len(_manifest(written(shapes, range(80)), list(range(80))).to_bytes()) < 6000
