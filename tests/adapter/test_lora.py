"""LoRA on a real model: order of parameters, what is frozen, and the folder that PEFT loads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel

from fedbank.adapter.export import save_adapter
from fedbank.adapter.lora import AdaptedModel, LoraSettings
from fedbank.adapter.state import initial_state
from fedbank.errors import ModelError

MakeModel = Callable[..., AdaptedModel]
TOKENS = torch.tensor([[5, 9, 12, 3, 44]])


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
@pytest.mark.parametrize("trainable", ["B", "AB"])
def test_only_what_the_spec_says_is_trainable_and_in_its_order(
    make_model: MakeModel, kind: str, trainable: str
) -> None:
    model = make_model(kind, trainable)
    shapes = [tuple(parameter.shape) for parameter in model.parameters]
    assert shapes == list(model.spec.trainable_shapes().values())
    trained = {id(p) for p in model.peft_model.parameters() if p.requires_grad}
    assert trained == {id(p) for p in model.parameters}
    linears = [linear.weight for _, linear in model.trainable_linears()]
    assert [id(w) for w in linears] == [id(p) for p in model.parameters]
    assert {p.dtype for p in model.parameters} == {torch.float32}


def test_the_adapter_of_a_bf16_base_is_fp32(make_model: MakeModel) -> None:
    model = make_model(dtype="bfloat16")
    assert {p.dtype for p in model.parameters} == {torch.float32}
    assert {p.dtype for p in model.peft_model.parameters() if not p.requires_grad} >= {torch.bfloat16}


def test_reading_is_a_copy_and_writing_is_what_is_read(make_model: MakeModel, make_state: Callable[..., Any]) -> None:
    model = make_model()
    state = make_state(model.spec, 7)
    model.write(state)
    read = model.read()
    assert all(np.array_equal(read[name], state[name]) for name in state)
    read["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"][:] = 99
    assert not any((tensor == 99).any() for tensor in model.read().values())


@torch.no_grad()
def test_a_replica_has_an_adapter_of_its_own_and_shares_the_base(
    make_model: MakeModel, make_state: Callable[..., Any]
) -> None:
    model = make_model()
    replica, before = model.replica(), model.base(TOKENS).logits
    torch.testing.assert_close(replica.base(TOKENS).logits, before, rtol=0, atol=0)
    replica.write(make_state(model.spec, 7))
    assert not torch.allclose(replica.base(TOKENS).logits, before, atol=1e-3)
    torch.testing.assert_close(model.base(TOKENS).logits, before, rtol=0, atol=0)
    adapters = sum(a * b for a, b in model.spec.shapes().values())
    mine = {p.data_ptr() for p in model.peft_model.parameters()}
    extra = sum(p.numel() for p in replica.peft_model.parameters() if p.data_ptr() not in mine)
    assert extra == adapters
    assert {id(p) for p in replica.parameters} == {id(p) for p in replica.peft_model.parameters() if p.requires_grad}


def test_a_tensor_of_another_shape_is_not_written(make_model: MakeModel) -> None:
    model = make_model()
    name = next(iter(model.spec.trainable_shapes()))
    with pytest.raises(ValueError, match="expected shape"):
        model.write({name: model.read()[name].T})


@torch.no_grad()
def test_the_initial_adapter_changes_nothing(make_model: MakeModel, make_base: Callable[..., Any]) -> None:
    model, base = make_model(), make_base()
    changed = model.base(TOKENS).logits
    model.write(initial_state(model.spec, seed=0))
    torch.testing.assert_close(model.base(TOKENS).logits, base(TOKENS).logits, rtol=0, atol=0)
    assert not torch.allclose(changed, base(TOKENS).logits, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("last_layers", [None, 1, 2])
def test_peft_loads_what_is_saved(
    make_base: Callable[..., Any], make_state: Callable[..., Any], tmp_path: Path, last_layers: int | None
) -> None:
    model = AdaptedModel(make_base(), LoraSettings(3, 6.0, ("q_proj", "down_proj"), "AB", last_layers))
    model.write(make_state(model.spec, 5))
    assert model.spec.layers() == ([1] if last_layers == 1 else [0, 1])
    save_adapter(tmp_path, model.spec, model.read(), base_reference="tiny", card="# Card")
    loaded = PeftModel.from_pretrained(make_base(), tmp_path)
    torch.testing.assert_close(loaded(TOKENS).logits, model.base(TOKENS).logits, rtol=1e-6, atol=1e-6)
    assert (tmp_path / "README.md").read_text() == "# Card"


def test_unknown_target_modules_are_a_plain_error(make_base: Callable[..., Any]) -> None:
    with pytest.raises(ModelError, match="target_modules"):
        AdaptedModel(make_base(), LoraSettings(2, 4.0, ("no_such_layer",), "B"))


@pytest.mark.parametrize("module", ["lm_head", "embed_tokens"])
def test_layers_whose_records_cannot_be_told_apart_are_refused_by_name(
    make_base: Callable[..., Any], module: str
) -> None:
    """The output layer sees answer tokens without a record dimension, an embedding has no A."""
    with pytest.raises(ModelError, match=f"layers of the decoder, got '{module}'"):
        AdaptedModel(make_base(), LoraSettings(2, 4.0, ("q_proj", module), "B"))


def test_a_base_model_in_fp16_is_refused(make_base: Callable[..., Any]) -> None:
    with pytest.raises(ModelError, match=r"float32 or bfloat16, got float16.*model\.dtype=bfloat16"):
        AdaptedModel(make_base().half(), LoraSettings(2, 4.0, ("q_proj",), "B"))


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 2.0, float("nan")])
def test_a_dropout_that_is_no_probability_is_refused(make_base: Callable[..., Any], dropout: float) -> None:
    with pytest.raises(ModelError, match=r"adapter\.dropout"):
        AdaptedModel(make_base(), LoraSettings(2, 4.0, ("q_proj",), "B", dropout=dropout))


@torch.no_grad()
def test_dropout_is_off_outside_training(make_base: Callable[..., Any], make_state: Callable[..., Any]) -> None:
    plain, dropping = (AdaptedModel(make_base(), LoraSettings(3, 6.0, ("q_proj",), "B", dropout=p)) for p in (0.0, 0.5))
    for model in (plain, dropping):
        model.write(make_state(model.spec, 5))
    torch.testing.assert_close(dropping.base(TOKENS).logits, plain.base(TOKENS).logits, rtol=0, atol=0)


@pytest.mark.parametrize("last_layers", [0, -1, 3])
def test_more_layers_than_there_are_is_a_plain_error(make_base: Callable[..., Any], last_layers: int) -> None:
    with pytest.raises(ModelError, match="last_layers"):
        AdaptedModel(make_base(), LoraSettings(2, 4.0, ("q_proj",), "B", last_layers))
