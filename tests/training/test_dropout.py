"""LoRA dropout: what a mask depends on, and that the frozen base never drops anything."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedbank.adapter.lora import AdaptedModel
from fedbank.data.encode import EncodedUnits
from fedbank.model.loading import enable_checkpointing
from fedbank.privacy.noise import RandomStream
from fedbank.privacy.plan import Sampling, UnprotectedPlan
from fedbank.training.dropout import DropoutMasks, record_dropout
from fedbank.training.local import LocalSettings, train_round

CPU = torch.device("cpu")
MakeModel = Callable[..., AdaptedModel]


def _mask(*, seed: int = 1, step: int = 0, record: int = 0, layer: int = 0, length: int = 50) -> torch.Tensor:
    masks = DropoutMasks(0.3, seed)
    masks.begin(step, [record], [length])
    return masks.draw(layer, torch.empty(1, length, 40))[0]


def test_a_mask_keeps_the_agreed_share_and_its_mean_is_one() -> None:
    mask = _mask(length=2000)
    assert mask.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert abs(float((mask > 0).float().mean()) - 0.7) < 0.01


@pytest.mark.parametrize("other", [{"seed": 2}, {"step": 1}, {"record": 1}, {"layer": 1}], ids=lambda o: next(iter(o)))
def test_masks_are_repeated_for_the_same_place_and_independent_elsewhere(other: dict[str, int]) -> None:
    assert torch.equal(_mask(), _mask())
    agreement = float((_mask() == _mask(**other)).float().mean())
    assert abs(agreement - (0.7**2 + 0.3**2)) < 0.05


def test_batch_mates_and_padding_do_not_change_a_mask() -> None:
    masks = DropoutMasks(0.3, 1)
    masks.begin(0, [7, 0, 3], [11, 50, 2])
    drawn = masks.draw(0, torch.empty(3, 56, 40))
    assert torch.equal(drawn[1, :50], _mask())
    assert not drawn[1, 50:].any()
    with pytest.raises(ValueError, match="rows"):
        masks.draw(0, torch.empty(4, 56, 40))


@pytest.mark.parametrize("checkpointing", ["none", "reentrant", "non-reentrant"])
def test_the_adapter_drops_in_training_and_only_there(make_model: MakeModel, checkpointing: str) -> None:
    tokens = torch.tensor([[5, 9, 12, 3, 44]])
    model = make_model("qwen3", "AB", dropout=0.5)
    enable_checkpointing(model.base, checkpointing)
    still = model.base(tokens).logits.detach()
    masks = DropoutMasks(0.5, 1)
    masks.begin(0, [0], [5])
    with record_dropout(model, masks):
        dropped = model.base(tokens).logits.detach()
    assert float((dropped - still).abs().max()) > 1e-3
    torch.testing.assert_close(model.base(tokens).logits, still, rtol=0, atol=0)
    assert all(isinstance(layer.lora_dropout["default"], nn.Dropout) for layer in model.lora_layers)
    # With B = 0 the adapter adds nothing: whatever still changed would be dropped by the base.
    model.write({name: np.zeros(shape, np.float32) for name, shape in model.spec.shapes().items() if "lora_B" in name})
    plain = model.base(tokens).logits.detach()
    with record_dropout(model, masks):
        model.base.train()
        torch.testing.assert_close(model.base(tokens).logits, plain, rtol=0, atol=0)


def _round(model: AdaptedModel, data: EncodedUnits, stream: RandomStream, steps: int = 2) -> np.ndarray:
    plan = UnprotectedPlan(Sampling(1.0, 3.0, 2, 10))
    settings = LocalSettings(steps, 1.0, "sgd")
    change = train_round(model, data, plan, settings, model.read(), stream=stream, device=CPU)
    return np.concatenate([tensor.ravel() for tensor in change.values()])


def test_a_round_with_dropout_repeats_with_its_stream_and_leaves_the_global_generator_alone(
    make_model: MakeModel, make_units: Callable[..., Any]
) -> None:
    data, rounds = make_units([1, 2, 2]), []
    for seed in (0, 1):
        model = make_model(dropout=0.4)
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        rounds.append(_round(model, data, RandomStream.derived("round")))
        assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(rounds[0], rounds[1])
    assert not np.array_equal(rounds[0], _round(make_model(dropout=0.4), data, RandomStream.derived("other")))
    assert not np.array_equal(rounds[0], _round(make_model(), data, RandomStream.derived("round")))
