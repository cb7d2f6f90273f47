"""A round that trained anything else than the agreed adapter, or nothing, sends nothing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fedbank.adapter.lora import AdaptedModel
from fedbank.data.encode import EncodedUnits
from fedbank.errors import ModelError, RunError
from fedbank.privacy.clipping import ClippedSum
from fedbank.privacy.noise import RandomStream
from fedbank.privacy.plan import Sampling, UnprotectedPlan
from fedbank.training.local import LocalSettings, train_round

MakeModel = Callable[..., AdaptedModel]
NORM = "base_model.model.model.layers.0.input_layernorm.weight"


class Meddler(UnprotectedPlan):
    """An ordinary plan, during whose steps something happens to the model."""

    def __init__(self, meddle: Callable[[], object] = lambda: None, probability: float = 1.0) -> None:
        super().__init__(Sampling(probability, 2.0, 3, 10))
        object.__setattr__(self, "_meddle", meddle)

    def release(self, total: ClippedSum, stream: RandomStream) -> tuple[torch.Tensor, ...]:
        self._meddle()  # type: ignore[attr-defined]
        return super().release(total, stream)


@pytest.fixture(scope="module")
def data(make_units: Callable[..., EncodedUnits]) -> EncodedUnits:
    return make_units([1, 2, 1])


def _round(model: AdaptedModel, data: EncodedUnits, plan: Any, rate: float = 0.1, optimizer: str = "sgd") -> Any:
    return train_round(
        model,
        data,
        plan,
        LocalSettings(2, rate, optimizer),
        model.read(),
        stream=RandomStream.derived("round"),
        device=torch.device("cpu"),
    )


def _parameter(model: AdaptedModel, name: str = NORM) -> nn.Parameter:
    found: nn.Parameter = dict(model.peft_model.named_parameters())[name]
    return found


def test_an_honest_round_passes_and_so_does_one_without_customers(make_model: MakeModel, data: EncodedUnits) -> None:
    assert all(tensor.any() for tensor in _round(make_model(), data, Meddler()).values())
    assert not any(tensor.any() for tensor in _round(make_model(), data, Meddler(probability=1e-12)).values())


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_frozen_weight_that_is_trained_stops_the_round(make_model: MakeModel, data: EncodedUnits, when: str) -> None:
    model = make_model()
    unfreeze = _parameter(model).requires_grad_
    if when == "before":
        unfreeze()
    with pytest.raises(RunError, match=r"trainable tensors of the agreed adapter.*input_layernorm"):
        _round(model, data, Meddler(unfreeze))


@pytest.mark.parametrize("when", ["before", "during"])
def test_an_agreed_tensor_that_is_not_trained_stops_the_round(
    make_model: MakeModel, data: EncodedUnits, when: str
) -> None:
    model = make_model()

    def freeze() -> None:
        model.parameters[0].requires_grad_(False)

    if when == "before":
        freeze()
    with pytest.raises(RunError, match=r"trainable tensors of the agreed adapter|no gradient for .*lora_B"):
        _round(model, data, Meddler(freeze))


@torch.no_grad()
def _write(parameter: nn.Parameter) -> None:
    parameter.mul_(1.0)


def _replace(parameter: nn.Parameter) -> None:
    parameter.data = parameter.data.clone()


@pytest.mark.parametrize("change", [_write, _replace])
def test_a_write_to_a_frozen_weight_stops_the_round(
    make_model: MakeModel, data: EncodedUnits, change: Callable[[nn.Parameter], None]
) -> None:
    model = make_model()
    with pytest.raises(RunError, match=r"base model to stay as it is.*input_layernorm"):
        _round(model, data, Meddler(lambda: change(_parameter(model))))


def test_what_a_layer_remembers_of_a_text_stops_the_round(make_model: MakeModel, data: EncodedUnits) -> None:
    """Rotary embeddings of some kinds grow with the longest text so far: one customer would reach all that follow."""
    model = make_model()
    rotary = model.base.model.rotary_emb

    def remember() -> None:
        rotary.register_buffer("inv_freq", rotary.inv_freq / 2, persistent=False)

    with pytest.raises(RunError, match=r"base model to stay as it is.*inv_freq"):
        _round(model, data, Meddler(remember))


def test_other_values_at_the_same_address_stop_the_round(make_model: MakeModel, data: EncodedUnits) -> None:
    """As the allocator does when the first storage was freed."""
    model = make_model()
    parameter = _parameter(model)
    memory = bytearray(parameter.detach().numpy().tobytes())

    def take_memory() -> None:
        parameter.data = torch.frombuffer(memory, dtype=parameter.dtype)

    take_memory()
    with pytest.raises(RunError, match=r"base model to stay as it is.*input_layernorm"):
        _round(model, data, Meddler(take_memory))


def test_a_write_to_a_frozen_a_stops_the_round(make_model: MakeModel, data: EncodedUnits) -> None:
    model = make_model(trainable="B")
    frozen = next(name for name, _ in model.peft_model.named_parameters() if "lora_A" in name)
    with pytest.raises(RunError, match=r"base model to stay as it is.*lora_A"):
        _round(model, data, Meddler(lambda: _write(_parameter(model, frozen))))


def test_a_gradient_of_a_frozen_weight_stops_the_round(make_model: MakeModel, data: EncodedUnits) -> None:
    model = make_model()

    def grade() -> None:
        _parameter(model).grad = torch.zeros_like(_parameter(model))

    with pytest.raises(RunError, match=r"no gradient outside.*input_layernorm"):
        _round(model, data, Meddler(grade))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_an_adapter_that_does_not_move_stops_the_round(
    make_model: MakeModel, data: EncodedUnits, optimizer: str
) -> None:
    with pytest.raises(RunError, match="Expected training to move the adapter, got no change of"):
        _round(make_model(), data, Meddler(), rate=0.0, optimizer=optimizer)


def test_one_tensor_that_does_not_move_stops_the_round(make_model: MakeModel, data: EncodedUnits) -> None:
    model = make_model()
    last = model.parameters[-1]
    kept = last.detach().clone()
    steps = [0]

    def undo() -> None:
        """Before the last step: what it changes is taken back when the parameter is copied out."""
        steps[0] += 1
        if steps[0] == 2:
            read = model.read
            model.read = lambda: (
                read()
                | {  # type: ignore[method-assign]
                    list(model.spec.trainable_shapes())[-1]: kept.numpy()
                }
            )

    with pytest.raises(RunError, match=f"no change of {list(model.spec.trainable_shapes())[-1]}"):
        _round(model, data, Meddler(undo))


def test_an_adapter_that_is_not_that_of_the_running_model_stops_the_round(
    make_model: MakeModel, data: EncodedUnits
) -> None:
    """What moving a model after attaching LoRA does: the optimizer holds tensors that nothing reads."""
    model = make_model()
    layer = model.lora_layers[0].lora_B["default"]
    layer.weight = nn.Parameter(layer.weight.detach().clone())
    with pytest.raises(RunError, match="of the model that runs, got others"):
        _round(model, data, Meddler())


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_autocast_is_refused(make_model: MakeModel, data: EncodedUnits, device: str) -> None:
    model = make_model()
    torch.set_autocast_enabled(device, True)
    try:
        with pytest.raises(ModelError, match="float32 or bfloat16, got float16 or autocast"):
            _round(model, data, Meddler())
    finally:
        torch.set_autocast_enabled(device, False)


def test_a_base_that_was_cast_to_fp16_is_refused(make_model: MakeModel, data: EncodedUnits) -> None:
    model = make_model()
    model.base.model.layers[0].mlp.half()
    with pytest.raises(ModelError, match="float32 or bfloat16, got float16"):
        _round(model, data, Meddler())
