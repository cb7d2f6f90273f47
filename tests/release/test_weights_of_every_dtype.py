"""The weights of a release are read as what they are, in each dtype, whether their number is even or odd."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from release_world import manifest_of

from fedbank.release.contents import CARD, CONFIG, MANIFEST, WEIGHTS
from fedbank.release.errors import ReleaseError
from fedbank.release.inspection import adapter_config, inspect

_ITEM = {"F32": 4, "F16": 2, "BF16": 2}
_NAMES = ("layers.0.q_proj.lora_A.weight", "layers.0.q_proj.lora_B.weight")
_VALUES = (3.0, -4.0, 0.5)
"""Exact in every dtype."""


def _encoded(values: Sequence[float], dtype: str) -> bytes:
    if dtype == "F16":
        return np.array(values, "<f2").tobytes()
    wide = np.array(values, "<f4")
    return wide.tobytes() if dtype == "F32" else (wide.view("<u4") >> 16).astype("<u2").tobytes()


def _release(folder: Path, dtype: str, first: Sequence[float], second: Sequence[float], norm: float) -> Path:
    """Of two tensors, one row each."""
    item, header, begin = _ITEM[dtype], {}, 0
    for name, values in zip(_NAMES, (first, second), strict=True):
        end = begin + item * len(values)
        header[name] = {"dtype": dtype, "shape": [1, len(values)], "data_offsets": [begin, end]}
        begin = end
    about = manifest_of(folder.name, 0.5).adapter
    shapes = {name: entry["shape"] for name, entry in header.items()}
    manifest = manifest_of(
        folder.name, 0.5, adapter={**about, "dtype": dtype, "tensors": shapes, "norm": repr(float(norm))}
    )
    text = json.dumps(header).encode()
    folder.mkdir()
    weights = len(text).to_bytes(8, "little") + text + _encoded([*first, *second], dtype)
    (folder / WEIGHTS).write_bytes(weights)
    (folder / MANIFEST).write_bytes(manifest.to_bytes())
    (folder / CONFIG).write_bytes(adapter_config(manifest))
    (folder / CARD).write_text("card", "utf-8")
    return folder


@pytest.mark.parametrize("dtype", _ITEM)
@pytest.mark.parametrize("more", [(), (12.0,), (12.0, 84.0)])
def test_the_norm_is_that_of_all_values(tmp_path: Path, dtype: str, more: tuple[float, ...]) -> None:
    norm = float(np.linalg.norm([*_VALUES, *more, 1.0]))
    inspect(_release(tmp_path / "right", dtype, [*_VALUES, *more], [1.0], norm))
    with pytest.raises(ReleaseError, match=f"Expected weights of norm {1.01 * norm:g}, as the manifest says"):
        inspect(_release(tmp_path / "wrong", dtype, [*_VALUES, *more], [1.0], 1.01 * norm))


@pytest.mark.parametrize("dtype", _ITEM)
@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_value_that_is_no_number_is_found_wherever_it_is(
    tmp_path: Path, dtype: str, place: int, value: float
) -> None:
    values = [*_VALUES, 1.0]
    values[place] = value
    with pytest.raises(ReleaseError, match="Expected finite weights, got NaN or infinity"):
        inspect(_release(tmp_path / "release", dtype, values[:3], values[3:], 5.0))


@pytest.mark.parametrize("dtype", _ITEM)
def test_weights_that_come_in_several_pieces_are_all_counted(tmp_path: Path, dtype: str) -> None:
    count = 3 * (1 << 20) // _ITEM[dtype] + 1
    inspect(_release(tmp_path / "long", dtype, np.ones(count).tolist(), [1.0], float(np.sqrt(count + 1))))
