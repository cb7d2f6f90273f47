"""Exact per-record gradients of LoRA layers in the one ordinary backward pass.

N records, T tokens. For y = Wx with input X (N, T, n_in) and output gradient G (N, T, n_out) the gradient of
record n is G[n]ᵀX[n]: the same multiplications that a summed gradient needs, batched instead of summed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedbank.adapter.lora import ADAPTER, AdaptedModel


class _Collected:
    """One layer's gradients of the current micro-batch: a plain object, since attributes set on saved
    tensors are lost under non-reentrant checkpointing."""

    __slots__ = ("grad_NP",)

    def __init__(self) -> None:
        self.grad_NP: Tensor | None = None


class _PerRecordLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, collected: _Collected) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.collected = collected
        return functional.linear(x, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        (g_NTO,) = grads
        x_NTI, weight = ctx.saved_tensors
        if x_NTI.dim() != 3:
            raise ValueError(f"per-record gradients need (records, tokens, features) inputs, got {tuple(x_NTI.shape)}")
        grad = torch.bmm(g_NTO.float().transpose(1, 2), x_NTI.float())
        previous = ctx.collected.grad_NP
        ctx.collected.grad_NP = grad if previous is None else previous + grad
        return (g_NTO @ weight if ctx.needs_input_grad[0] else None), None, None


class _TappedLinear(nn.Module):
    """Stands in for a LoRA ``nn.Linear`` while gradients are taken; shares its weight."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = linear.weight
        self.collected = _Collected()

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = _PerRecordLinear.apply(x, self.weight, self.collected)  # type: ignore[no-untyped-call]
        return output


class PerRecordGradients:
    """Reads the gradients of a micro-batch, one (N, n_out, n_in) tensor per trainable layer."""

    def __init__(self, taps: list[_TappedLinear]) -> None:
        self._taps = taps

    def take(self) -> list[Tensor]:
        """The gradients since the last call, in the order of ``AdaptedModel.parameters``; they are handed over."""
        grads = []
        for tap in self._taps:
            if tap.collected.grad_NP is None:
                raise RuntimeError("a trainable LoRA layer took no part in the backward pass")
            grads.append(tap.collected.grad_NP)
            tap.collected.grad_NP = None
        return grads


@contextmanager
def per_record_gradients(model: AdaptedModel) -> Iterator[PerRecordGradients]:
    """Within the block every backward pass leaves per-record gradients, and no summed one."""
    places = model.trainable_linears()
    taps = [_TappedLinear(linear) for _, linear in places]
    for (container, _), tap in zip(places, taps, strict=True):
        container[ADAPTER] = tap
    try:
        yield PerRecordGradients(taps)
    finally:
        for container, linear in places:
            container[ADAPTER] = linear
