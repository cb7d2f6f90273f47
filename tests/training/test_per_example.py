"""Per-record gradients against a plain loop of autograd over single, unpadded records."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedbank.adapter.lora import AdaptedModel
from fedbank.data.encode import EncodedUnits
from fedbank.errors import RunError
from fedbank.training.batches import collate
from fedbank.training.loss import record_losses
from fedbank.training.per_example import per_record_gradients

CPU = torch.device("cpu")
MakeModel = Callable[..., AdaptedModel]
MakeUnits = Callable[..., EncodedUnits]


def _reference(model: AdaptedModel, data: EncodedUnits, record: int) -> list[Tensor]:
    """Nothing of ours but the parameters: the model's logits, one record, autograd."""
    tokens = torch.from_numpy(data.record(record).astype(np.int64))[None]
    logits, first = model.base(input_ids=tokens, use_cache=False).logits[0], int(data.answer_offsets[record])
    mean = nn.functional.cross_entropy(logits[first - 1 : -1], tokens[0, first:])
    return list(torch.autograd.grad(mean, model.parameters))


def _ours(model: AdaptedModel, data: EncodedUnits, records: list[int], weights: list[float] | None = None) -> Any:
    batch = collate(data, records, weights or [1.0] * len(records), CPU)
    with per_record_gradients(model) as gradients:
        (record_losses(model.base, batch) * batch.weight_N).sum().backward()
        return gradients.take()


def _distance(ours: list[Tensor], reference: list[Tensor]) -> float:
    """Relative L2 distance over all parameters together."""
    squared = sum(float((a - b).double().square().sum()) for a, b in zip(ours, reference, strict=True))
    return (squared / sum(float(b.double().square().sum()) for b in reference)) ** 0.5


def _count_forwards(model: AdaptedModel) -> list[int]:
    count = [0]

    def hook(*args: object) -> None:
        count[0] += 1

    model.base.model.layers[0].input_layernorm.register_forward_hook(hook)
    return count


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
@pytest.mark.parametrize("trainable", ["B", "AB"])
@pytest.mark.parametrize("checkpointing", ["none", "reentrant", "non-reentrant"])
def test_gradients_equal_the_loop(
    make_model: MakeModel, make_units: MakeUnits, kind: str, trainable: str, checkpointing: str
) -> None:
    model, data = make_model(kind, trainable), make_units([1] * 5)
    reference = [_reference(model, data, record) for record in range(5)]
    if checkpointing != "none":
        model.base.gradient_checkpointing_enable({"use_reentrant": checkpointing == "reentrant"})
        model.base.enable_input_require_grads()
        model.base.train()
    forwards = _count_forwards(model)
    grads = _ours(model, data, list(range(5)))
    assert forwards[0] == (1 if checkpointing == "none" else 2)
    for record in range(5):
        assert _distance([grad[record] for grad in grads], reference[record]) <= 1e-5


@pytest.mark.parametrize("targets", [("k_proj",), ("o_proj", "gate_proj"), ("up_proj", "down_proj")], ids="+".join)
def test_any_linear_layer_can_be_adapted(
    make_model: MakeModel, make_units: MakeUnits, targets: tuple[str, ...]
) -> None:
    model, data = make_model("qwen2", "AB", targets=targets), make_units([1] * 3)
    grads = _ours(model, data, [0, 1, 2])
    for record in range(3):
        assert _distance([grad[record] for grad in grads], _reference(model, data, record)) <= 1e-5


@pytest.mark.parametrize("mates", [[], [3], [1, 2, 3, 4]], ids=["alone", "one-mate", "four-mates"])
def test_batch_mates_do_not_change_a_gradient(make_model: MakeModel, make_units: MakeUnits, mates: list[int]) -> None:
    model, data = make_model("qwen3", "AB"), make_units([1] * 5)
    grads = _ours(model, data, [0, *mates])
    assert _distance([grad[0] for grad in grads], _reference(model, data, 0)) <= 1e-5


def test_weights_scale_a_records_gradient_and_no_other(make_model: MakeModel, make_units: MakeUnits) -> None:
    model, data = make_model(), make_units([1] * 2)
    grads = _ours(model, data, [0, 1], [0.25, 1.0])
    for record, weight in ((0, 0.25), (1, 1.0)):
        expected = [weight * grad for grad in _reference(model, data, record)]
        assert _distance([grad[record] for grad in grads], expected) <= 1e-5


def test_an_adapter_that_is_used_twice_has_the_gradient_of_both_uses(
    make_model: MakeModel, make_units: MakeUnits
) -> None:
    model, data = make_model(), make_units([1] * 2)
    batch = collate(data, [0, 1], [1.0, 1.0], CPU)
    reference = [_reference(model, data, record) for record in (0, 1)]
    with per_record_gradients(model) as gradients:
        (record_losses(model.base, batch) + 2 * record_losses(model.base, batch)).sum().backward()
        grads = gradients.take()
    for record in (0, 1):
        assert _distance([grad[record] for grad in grads], [3 * grad for grad in reference[record]]) <= 1e-5


def test_no_summed_gradient_is_left_and_frozen_weights_get_none(make_model: MakeModel, make_units: MakeUnits) -> None:
    model, data = make_model(), make_units([1] * 4)
    before = {name: tensor.clone() for name, tensor in model.peft_model.state_dict().items()}
    _ours(model, data, [0, 1, 2, 3])
    assert all(parameter.grad is None for parameter in model.peft_model.parameters())
    after = model.peft_model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_gradients_are_handed_over_once(make_model: MakeModel, make_units: MakeUnits) -> None:
    model, data = make_model(), make_units([1] * 2)
    reference = [_reference(model, data, record) for record in (0, 1)]
    with per_record_gradients(model) as gradients:
        with pytest.raises(RunError, match="no gradient for"):
            gradients.take()
        for record in (0, 1):
            record_losses(model.base, collate(data, [record], [1.0], CPU)).sum().backward()
            assert _distance([grad[0] for grad in gradients.take()], reference[record]) <= 1e-5
        with pytest.raises(RunError, match="no gradient for"):
            gradients.take()


def test_checkpointing_that_would_lose_the_gradient_is_loud(make_model: MakeModel, make_units: MakeUnits) -> None:
    """Reentrant checkpointing without gradients of the inputs trains nothing: it must not pass in silence."""
    model, data = make_model(), make_units([1])
    model.base.gradient_checkpointing_enable({"use_reentrant": True})
    if hasattr(model.base, "_require_grads_hook"):
        model.base.disable_input_require_grads()
    model.base.train()
    with pytest.raises(RuntimeError):
        _ours(model, data, [0])


def test_the_model_is_put_back_even_after_an_error(make_model: MakeModel) -> None:
    model = make_model()
    before = [container["default"] for container, _ in model.trainable_linears()]
    with pytest.raises(KeyError), per_record_gradients(model):
        assert "forward" in vars(model.base.model.layers[0].self_attn.q_proj)
        raise KeyError
    after = [container["default"] for container, _ in model.trainable_linears()]
    assert all(one is other for one, other in zip(before, after, strict=True))
    assert not any("forward" in vars(layer) for layer in model.lora_layers)


def test_activations_of_another_form_are_refused(make_model: MakeModel) -> None:
    """A flattened batch has no record dimension: its first dimension must not be taken for one."""
    model = make_model()
    layer = model.base.model.layers[0].self_attn.q_proj
    with per_record_gradients(model), pytest.raises(ValueError, match="records, tokens, features"):
        layer(torch.randn(4, 24)).sum().backward()
