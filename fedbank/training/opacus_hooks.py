"""Per-record gradients through the hooks of Opacus (Yousefpour et al. 2021, arXiv:2109.12298): the second engine.

It covers every trainable layer of the decoder for which Opacus has a rule, norms, biases and embeddings included, and
is slower than the direct path. It is wrong under non-reentrant checkpointing, which is refused. Opacus is imported
when this engine is asked for, not before: importing it configures Python's root logger.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from fedbank.adapter.lora import AdaptedModel
from fedbank.training.per_example import RecordGroups, missing_gradient


class OpacusGradients:
    """Opacus's side of ``UnitGradients``."""

    def __init__(self, names: Sequence[str], parameters: Sequence[Any]) -> None:
        self._names = names
        self._parameters = parameters
        self._groups: RecordGroups | None = None

    def begin(self, groups: RecordGroups) -> None:
        """Before the forward pass: what ``take`` sums over. Without it, every record is a unit."""
        self._groups = groups

    def take(self) -> list[Tensor]:
        """The gradients since the last call, fp32 (U, *shape); they are handed over. ``RunError`` if one is missing."""
        grads = []
        for name, parameter in zip(self._names, self._parameters, strict=True):
            grad_NP = parameter.grad_sample
            if grad_NP is None:
                raise missing_gradient(name)
            if self._groups is not None and len(grad_NP) != len(self._groups.unit_N):
                raise ValueError(f"per-record gradients need one row per record, got {tuple(grad_NP.shape)} for {name}")
            # The hooks come on top of the ordinary backward pass, which leaves a summed gradient too.
            parameter.grad = parameter.grad_sample = None
            grads.append(grad_NP.float() if self._groups is None else self._groups.sum(grad_NP.float()))
        return grads


def covered_parameters(model: AdaptedModel) -> list[Tensor]:
    """The trainable parameters whose gradients Opacus computes per record.

    Not those of the output layer, which sees answer tokens without a record dimension (Opacus would take tokens for
    records), nor those of layers with buffers or with sub-modules that Opacus has no rule for.
    """
    from opacus.grad_sample import GradSampleModule

    head = {id(parameter) for parameter in model.base.get_output_embeddings().parameters()}
    covered: list[Tensor] = []
    for module in model.peft_model.modules():
        by_rule = type(module) in GradSampleModule.GRAD_SAMPLERS
        by_vmap = not any(module.children()) and not isinstance(module, nn.ParameterDict | nn.ParameterList)
        if (by_rule or by_vmap) and not any(True for _ in module.buffers()):
            own = module.parameters(recurse=False)
            covered.extend(parameter for parameter in own if parameter.requires_grad and id(parameter) not in head)
    return covered


@contextmanager
def opacus_gradients(model: AdaptedModel) -> Iterator[OpacusGradients]:
    """Within the block every backward pass leaves per-record gradients on the parameters, where Opacus keeps them."""
    from opacus.grad_sample import GradSampleHooks

    # Opacus records activations of layers in training mode only; a linear or norm layer has no other use for it.
    idle = [
        module
        for module in model.peft_model.modules()
        if not module.training and any(parameter.requires_grad for parameter in module.parameters(recurse=False))
    ]
    hooks = GradSampleHooks(model.peft_model, batch_first=True, loss_reduction="sum", strict=True)
    for module in idle:
        module.training = True
    try:
        yield OpacusGradients(tuple(model.spec.trainable_shapes()), model.parameters)
    finally:
        for module in idle:
            module.training = False
        hooks.cleanup()
        for parameter in model.parameters:
            parameter.grad = None
        for module in model.peft_model.modules():  # what a failed step left
            module.__dict__.pop("activations", None)
            module.__dict__.pop("max_batch_len", None)
