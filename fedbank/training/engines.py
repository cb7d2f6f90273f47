"""Which engine takes the per-customer gradients, and what is refused before a round starts."""

from contextlib import AbstractContextManager
from typing import Any

import torch

from fedbank.adapter.lora import AdaptedModel
from fedbank.errors import ConfigError, ModelError, RunError
from fedbank.model.loading import checkpointing_mode
from fedbank.training import opacus_hooks, per_example
from fedbank.training.per_example import UnitGradients

DIRECT, OPACUS = "direct", "opacus"
ENGINES = (DIRECT, OPACUS)


def unit_gradients(model: AdaptedModel, engine: str) -> AbstractContextManager[UnitGradients]:
    """Within the block every backward pass leaves per-unit gradients of ``model.parameters``."""
    check_engine(model, engine)
    return per_example.per_record_gradients(model) if engine == DIRECT else opacus_hooks.opacus_gradients(model)


def check_engine(model: AdaptedModel, engine: str) -> None:
    """Refuse what ``engine`` cannot do exactly on ``model``: before anything is charged, if a bank asks early."""
    if engine not in ENGINES:
        raise ConfigError(f"Expected training.per_example to be {' or '.join(ENGINES)}, got {engine!r}.")
    covered = opacus_hooks.covered_parameters(model) if engine == OPACUS else per_example.covered_parameters(model)
    known = {id(parameter) for parameter in covered}
    for name, parameter in model.peft_model.named_parameters():
        if parameter.requires_grad and id(parameter) not in known:
            other = " Try training.per_example=opacus." if engine == DIRECT else ""
            raise ModelError(
                f"Expected every trainable parameter to have per-record gradients, got {name}, for which "
                f"training.per_example={engine} has none. Freeze it.{other}"
            )
    if engine == OPACUS and checkpointing_mode(model.base) == "non-reentrant":
        raise ModelError(
            "Expected model.gradient_checkpointing=none or reentrant with training.per_example=opacus, got "
            "non-reentrant, under which Opacus's hooks fail. Use training.per_example=direct, or reentrant."
        )


def check_trainable(model: AdaptedModel) -> dict[str, Any]:
    """The parameters that are trained are those of the model that runs, exactly those of the spec, in no fp16.

    Returns all parameters by name: finding them walks the whole model.
    """
    named: dict[str, Any] = dict(model.peft_model.named_parameters())
    half = any(parameter.dtype == torch.float16 for parameter in named.values())
    if half or any(torch.is_autocast_enabled(device) for device in ("cpu", "cuda")):
        raise ModelError(
            "Expected a base model in float32 or bfloat16, got float16 or autocast: its gradients overflow, and the "
            "scaler that is usual against it skips steps. Set model.dtype=bfloat16."
        )
    found = {name for name, parameter in named.items() if parameter.requires_grad}
    expected = {_in_peft(name) for name in model.spec.trainable_shapes()}
    if found != expected:
        raise RunError(
            f"Expected the {len(expected)} trainable tensors of the agreed adapter, got {len(found)}; the first "
            f"difference is {sorted(found ^ expected)[0]}. Nothing was sent."
        )
    if {id(named[name]) for name in found} != {id(parameter) for parameter in model.parameters}:
        raise RunError(
            "Expected the adapter's tensors to be those of the model that runs, got others: the model was moved or "
            "copied after the adapter was attached, and would never learn. Nothing was sent."
        )
    return named


def _in_peft(name: str) -> str:
    """PEFT's parameter name for a tensor of the spec, which is named as PEFT saves it."""
    return name.removesuffix(".weight") + ".default.weight"
