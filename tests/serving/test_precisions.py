"""The engine in this process in 16, 8 and 4 bits: what is stored, how far it is from float32, releases in it."""

import asyncio
import functools
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from serving_models import (
    QUESTIONS,
    answer_of,
    asking,
    collected,
    expected_text,
    local_tiny,
    write_tiny_adapter,
)

from fedbank.errors import ModelError
from fedbank.model.folder import base_digest, tiny_folder
from fedbank.model.loading import ModelSpec
from fedbank.serving.engines.interface import Turn
from fedbank.serving.engines.kernels import (
    HalfLinear,
    Int4Linear,
    Int8Linear,
    Linear,
    PackedLinear,
    has_kernel,
    layer_of,
)
from fedbank.serving.engines.merged import merge, read_adapter
from fedbank.serving.engines.plan import PRECISIONS, Precision, Shape
from fedbank.serving.engines.text import encode
from fedbank.serving.engines.transformers_engine import LocalModel, TransformersEngine

CPU = torch.device("cpu")
SMALLER: tuple[Precision, ...] = tuple(one for one in PRECISIONS if one != "fp32")
MOST_ERROR = {"fp16": 0.004, "bf16": 0.02, "int8": 0.03, "int4": 0.2}
"""Of the logits, root mean square over their spread."""
MOST_ERROR_OF_A_LAYER = {HalfLinear: 2e-3, PackedLinear: 8e-3, Int8Linear: 1.5e-2, Int4Linear: 0.12}


@functools.cache
def tiny(precision: Precision) -> LocalModel:
    return LocalModel.load(ModelSpec("tiny", device="cpu"), base_digest(tiny_folder()), precision)


def logits(model: Any, text: str) -> torch.Tensor:
    tokens = torch.tensor([encode(local_tiny().tokenizer, (Turn("user", text),), 400)])
    with torch.inference_mode():
        found: torch.Tensor = model(tokens).logits[0].float()
    return found


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.float() - exact).pow(2).mean().sqrt() / exact.std())


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("precision", SMALLER)
def test_a_model_in_fewer_bits_says_nearly_what_the_exact_one_says(precision: Precision) -> None:
    worst = max(error(logits(tiny(precision).model, text), logits(local_tiny().model, text)) for text in QUESTIONS)
    assert 0 < worst < MOST_ERROR[precision]


@pytest.mark.parametrize(("precision", "least"), [("fp16", 7), ("bf16", 5), ("int8", 5)])
def test_most_answers_are_those_of_the_exact_model(precision: Precision, least: int) -> None:
    same = sum(
        expected_text(tiny(precision).model, text) == expected_text(local_tiny().model, text) for text in QUESTIONS
    )
    assert same >= least


@pytest.mark.parametrize("kind", [HalfLinear, PackedLinear, Int8Linear, Int4Linear])
@pytest.mark.parametrize("rows", [1, 3, 16, 17, 100])
def test_a_layer_multiplies_any_number_of_rows_and_adds_its_bias(kind: Any, rows: int) -> None:
    weight, bias, x = 0.1 * drawn(48, 96), drawn(48), drawn(rows, 96)
    layer: Linear = kind(weight, bias)
    dtype = torch.float16 if kind is HalfLinear else torch.bfloat16
    found = layer(x.to(dtype)[None])
    assert (found.shape, found.dtype) == ((1, rows, 48), dtype)
    assert error(found[0], x @ weight.T + bias) < MOST_ERROR_OF_A_LAYER[kind]


def test_no_int8_weight_is_off_by_more_than_half_a_level() -> None:
    weight = drawn(200, 64)
    layer = Int8Linear(weight, None)
    levels = (weight - layer.levels.float() * layer.scale.float()[:, None]).abs() / layer.scale.float()[:, None]
    assert levels.max() <= 0.501


def test_no_int4_weight_is_off_by_more_than_a_level_and_the_typical_one_by_a_quarter() -> None:
    weight = drawn(64, 64)
    layer = Int4Linear(weight, None)
    stored = layer(torch.eye(64, dtype=torch.bfloat16)).float().T
    scale = layer.scale_and_offset[..., 0].float().T.repeat_interleave(32, dim=1)
    levels = (weight - stored).abs() / scale
    assert levels.max() < 1
    assert levels.mean() < 0.28


def test_weights_that_are_all_alike_or_all_zero_are_kept() -> None:
    for value in (0.0, 0.5, -0.5):
        weight = torch.full((16, 32), value)
        for kind in (Int8Linear, Int4Linear):
            found = kind(weight, None)(torch.ones(1, 32, dtype=torch.bfloat16))
            torch.testing.assert_close(found.float(), torch.full((1, 16), 32 * value), rtol=0.01, atol=1e-3)


def test_int4_keeps_the_output_layer_and_odd_shapes_in_int8() -> None:
    assert isinstance(tiny("int4").model.lm_head, Int8Linear)
    assert isinstance(tiny("int4").model.model.layers[0].mlp.up_proj, Int4Linear)
    assert isinstance(layer_of(drawn(16, 32), None, "int4", output=True), Int8Linear)
    assert isinstance(layer_of(drawn(16, 32), None, "int4"), Int4Linear)
    assert not Int4Linear.takes(torch.empty(17, 32)) and not Int4Linear.takes(torch.empty(16, 33))


@pytest.mark.parametrize("precision", SMALLER)
def test_the_plan_knows_what_the_weights_take(precision: Precision) -> None:
    model = tiny(precision).model
    if precision == "bf16" and not has_kernel("bf16", CPU):
        pytest.skip("this processor has torch's own layers for bfloat16")
    taken = sum(one.numel() * one.element_size() for one in (*model.parameters(), *model.buffers()))
    assert Shape.read(tiny_folder()).weight_bytes(precision, own=True) == pytest.approx(taken, rel=0.02)


@pytest.mark.parametrize("precision", SMALLER)
def test_a_release_is_merged_into_the_original_weights_and_the_base_stays(precision: Precision, tmp_path: Path) -> None:
    base, adapted = tiny(precision), write_tiny_adapter(tmp_path / "one")
    before = logits(base.model, QUESTIONS[0])
    model = merge(base.model, *read_adapter(tmp_path / "one", base.digest), base.originals)
    worst = max(error(logits(model, text), logits(adapted.base, text)) for text in QUESTIONS[:4])
    assert worst < MOST_ERROR[precision]
    assert torch.equal(logits(base.model, QUESTIONS[0]), before)
    untouched, shared = model.model.layers[0].mlp.up_proj, base.model.model.layers[0].mlp.up_proj
    assert all(one is other for one, other in zip(untouched.buffers(), shared.buffers(), strict=True))


@pytest.mark.parametrize("precision", SMALLER)
def test_the_engine_answers_in_that_precision_with_and_without_a_release(precision: Precision, tmp_path: Path) -> None:
    base = tiny(precision)
    write_tiny_adapter(tmp_path / "one")
    merged = merge(base.model, *read_adapter(tmp_path / "one", base.digest), base.originals)

    async def test() -> None:
        here = TransformersEngine(base)
        try:
            await here.load("one", tmp_path / "one")
            for release, model in ((None, base.model), ("one", merged)):
                pieces = await collected(here.generate(asking(QUESTIONS[0], release=release)))
                assert answer_of(pieces) == expected_text(model, QUESTIONS[0])
        finally:
            await here.close()

    asyncio.run(asyncio.wait_for(test(), 30))


def test_weights_that_change_on_disk_are_merged_into_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder(), folder, copy_function=shutil.copyfile)
    local = LocalModel.load(ModelSpec("path", path=str(folder), device="cpu"), base_digest(tiny_folder()), "int8")
    write_tiny_adapter(tmp_path / "one")
    release = read_adapter(tmp_path / "one", local.digest)
    merge(local.model, *release, local.originals)
    (weights,) = folder.glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    begin = 8 + int.from_bytes(content[:8], "little")
    content[begin:] = bytes(byte ^ 1 for byte in content[begin:])
    weights.write_bytes(content)
    with pytest.raises(ModelError, match="as they were"):
        merge(local.model, *release, local.originals)
    weights.unlink()
    with pytest.raises(ModelError, match="readable weights"):
        merge(local.model, *release, local.originals)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_int8_and_int4_are_not_served_on_a_card_in_this_process(precision: Precision) -> None:
    with pytest.raises(ModelError, match="external engine"):
        has_kernel(precision, torch.device("cuda"))
    assert not has_kernel("bf16", torch.device("cuda"))


def test_int8_of_a_model_that_is_no_folder_is_refused_before_it_is_loaded() -> None:
    with pytest.raises(ModelError, match="model=path"):
        LocalModel.load(ModelSpec("hub", identifier="somebody/some-model"), "", "int8")


@pytest.mark.parametrize(("dtype", "precision"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_without_a_precision_the_base_models_type_decides(dtype: str, precision: torch.dtype) -> None:
    local = LocalModel.load(ModelSpec("tiny", dtype=dtype, device="cpu"), base_digest(tiny_folder()))
    assert local.model.dtype == precision
