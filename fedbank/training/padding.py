"""Keeps what lies at padding positions out of every gradient.

A coordinator's adapter can be such that it overflows at padding positions only. There 0·∞ would make the gradient of
whatever is padded NaN, and a gradient that is not finite counts as zero. So an adapted layer's input X is zero at
padding on the way forward and its output gradient G is zero at padding on the way back, before GᵀX is formed. That is
done whether or not anything is padded: a copy that is made for some batches only would depend on batch mates.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fedbank.adapter.lora import AdaptedModel


class PaddingGuard:
    """Which positions of the records that run now are padding; ``begin`` says so before the forward pass."""

    def __init__(self) -> None:
        self._padding_NT1: Tensor | None = None
        self._last: tuple[Tensor, Tensor] | None = None

    def begin(self, padding_NT: Tensor) -> None:
        """``padding_NT`` is true where there is no token."""
        self._padding_NT1, self._last = padding_NT.unsqueeze(2), None

    def done(self) -> None:
        """After the backward pass: let go of the last input."""
        self._last = None

    def before(self, layer: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Forward pre-hook: the layer's input, zero at padding."""
        if self._padding_NT1 is None:
            return None
        if self._last is None or self._last[0] is not args[0]:  # layers side by side are given one and the same input
            self._last = args[0], args[0].masked_fill(self._padding_NT1, 0)
        return self._last[1], *args[1:]

    def after(self, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """Forward hook: the layer's output, whose gradient will be zero at padding."""
        if self._padding_NT1 is None:
            return None
        guarded: Tensor = _GradientZeroed.apply(output, self._padding_NT1)  # type: ignore[no-untyped-call]
        return guarded


class _GradientZeroed(torch.autograd.Function):
    """The identity, whose gradient is zero at padding."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, padding_NT1: Tensor) -> Tensor:
        ctx.save_for_backward(padding_NT1)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (padding_NT1,) = ctx.saved_tensors
        return grads[0].masked_fill(padding_NT1, 0), None


@contextmanager
def padding_guard(model: AdaptedModel) -> Iterator[PaddingGuard]:
    """Within the block every adapted layer of ``model`` is guarded."""
    guard = PaddingGuard()
    with ExitStack() as installed:
        for layer in model.lora_layers:
            installed.callback(layer.register_forward_pre_hook(guard.before).remove)
            installed.callback(layer.register_forward_hook(guard.after).remove)
        yield guard
