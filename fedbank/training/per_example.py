"""Exact gradients of LoRA layers per record or per customer, in the one ordinary backward pass.

N records, U units (customers), T tokens, r rank. A LoRA layer is y = W₀x + s·B(Ax). With X (T, n_in) and the output
gradient G (T, n_out) of one record, H = s·XAᵀ and U = s·GB: its gradients are ∂B = GᵀH and ∂A = UᵀX. These are the
multiplications that a summed gradient needs, batched instead of summed; norms alone (ghost clipping, Li et al. 2022,
arXiv:2110.05679) would cost T/r times more and a second backward pass.

The direct path covers LoRA on linear layers inside the decoder, whatever the base layer is (fp32, bf16, 4-bit).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedbank.adapter.lora import ADAPTER, AdaptedModel
from fedbank.errors import RunError


@dataclass(frozen=True, slots=True)
class RecordGroups:
    """The unit that each of N records belongs to, ascending from 0 and without gaps: U units in all."""

    unit_N: tuple[int, ...]
    num_units: int

    def runs(self) -> list[tuple[int, int]]:
        """(units, records of each) for every run of consecutive units with equally many records, in order."""
        counts = [len(list(rows)) for _, rows in groupby(self.unit_N)]
        return [(len(list(run)), each) for each, run in groupby(counts)]

    def sum(self, grad_NP: Tensor) -> Tensor:
        """(N, *shape) to (U, *shape): the sum over each unit's records."""
        if self.num_units == len(self.unit_N):
            return grad_NP
        rows = torch.tensor(self.unit_N, device=grad_NP.device)
        total = torch.zeros(self.num_units, *grad_NP.shape[1:], dtype=grad_NP.dtype, device=grad_NP.device)
        return total.index_add_(0, rows, grad_NP)


class UnitGradients(Protocol):
    """Reads the gradients of a micro-batch, one tensor per parameter in the order of ``AdaptedModel.parameters``."""

    def begin(self, groups: RecordGroups) -> None:
        """Before the forward pass: what ``take`` sums over. Without it, every record is a unit."""

    def take(self) -> list[Tensor]:
        """The gradients since the last call, fp32 (U, *shape); they are handed over. ``RunError`` if one is missing."""


def missing_gradient(name: str) -> RunError:
    """The adapter and the model that runs are not one."""
    return RunError(
        f"Expected every trainable layer to take part in the backward pass, got no gradient for {name}. "
        "The adapter is not attached to the model that runs; nothing was sent."
    )


class _MicroBatch:
    """What all layers share: the grouping of the records that run now."""

    __slots__ = ("num_records", "runs")

    def __init__(self) -> None:
        self.num_records: int | None = None
        self.runs: list[tuple[int, int]] | None = None

    def check(self, x: Tensor) -> None:
        """A flattened batch has no record dimension: its first dimension must not be taken for one."""
        if x.dim() != 3 or self.num_records not in (None, x.shape[0]):
            raise ValueError(f"per-record gradients need (records, tokens, features) inputs, got {tuple(x.shape)}")


class _Collected:
    """One parameter's gradients of the current micro-batch: a plain object, since attributes set on saved
    tensors are lost under non-reentrant checkpointing."""

    __slots__ = ("batch", "grad_UP")

    def __init__(self, batch: _MicroBatch) -> None:
        self.batch = batch
        self.grad_UP: Tensor | None = None

    def add(self, g_NTO: Tensor, x_NTI: Tensor) -> None:
        """Add GᵀX of every unit. A unit of k records is k·T tokens: the multiplication itself sums over its records."""
        g_NTO, x_NTI = g_NTO.float(), x_NTI.float()
        parts, first = [], 0
        for units, each in self.batch.runs or [(len(x_NTI), 1)]:
            rows = slice(first, first + units * each)
            parts.append(_products(*(t[rows].reshape(units, -1, t.shape[2]) for t in (g_NTO, x_NTI))))
            first = rows.stop
        grad = parts[0] if len(parts) == 1 else torch.cat(parts)
        previous = self.grad_UP
        self.grad_UP = grad if previous is None else previous + grad


def _products(g_UTO: Tensor, x_UTI: Tensor) -> Tensor:
    """GᵀX of every unit, as (XᵀG)ᵀ if X is narrow: that is several times faster."""
    if g_UTO.shape[2] <= x_UTI.shape[2]:
        return torch.bmm(g_UTO.transpose(1, 2), x_UTI)
    return torch.bmm(x_UTI.transpose(1, 2), g_UTO).transpose(1, 2).contiguous()


class _PerRecordLinear(torch.autograd.Function):
    """A linear layer that collects its weight's gradient instead of returning it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, collected: _Collected) -> Tensor:
        collected.batch.check(x)
        ctx.save_for_backward(x, weight)
        ctx.collected = collected
        return functional.linear(x, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        (g_NTO,) = grads
        x_NTI, weight = ctx.saved_tensors
        ctx.collected.add(g_NTO, x_NTI)
        return (g_NTO @ weight if ctx.needs_input_grad[0] else None), None, None


class _FusedLora(torch.autograd.Function):
    """A frozen linear layer with its LoRA pair as one operation: in place where PEFT's chain makes copies.

    H and U are kept as (r, M), M = N·T: multiplications with a result r columns wide are several times slower than
    those with one r rows high, on a CPU with r = 8.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_NTI: Tensor,
        a: Tensor,
        b: Tensor,
        base: nn.Linear,
        scale: float,
        batch: _MicroBatch,
        collected_a: _Collected | None,
        collected_b: _Collected | None,
    ) -> Tensor:
        batch.check(x_NTI)
        h_RM = (a @ x_NTI.flatten(0, 1).to(a.dtype).t()).mul_(scale)
        out_NTO = functional.linear(x_NTI, base.weight, base.bias)
        if out_NTO.dtype == h_RM.dtype:
            out_NTO.view(-1, out_NTO.shape[2]).addmm_(h_RM.t(), b.t())
        else:
            out_NTO = (out_NTO + (h_RM.t() @ b.t()).view_as(out_NTO)).to(out_NTO.dtype)
        ctx.save_for_backward(x_NTI if collected_a else None, h_RM if collected_b else None, a, b)
        ctx.base, ctx.scale, ctx.collected_a, ctx.collected_b = base, scale, collected_a, collected_b
        return out_NTO

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None, None, None, None, None]:
        (g_NTO,) = grads
        x_NTI, h_RM, a, b = ctx.saved_tensors
        records, tokens, _ = g_NTO.shape
        exact_NTO = g_NTO.to(b.dtype)
        if ctx.collected_b is not None:
            ctx.collected_b.add(exact_NTO, h_RM.view(-1, records, tokens).permute(1, 2, 0))
        grad_x = None
        if ctx.collected_a is not None or ctx.needs_input_grad[0]:
            u_RM = (b.t() @ exact_NTO.flatten(0, 1).t()).mul_(ctx.scale)
            if ctx.collected_a is not None:
                ctx.collected_a.add(u_RM.view(-1, records, tokens).permute(1, 2, 0), x_NTI)
            if ctx.needs_input_grad[0]:
                grad_x = g_NTO @ ctx.base.weight
                if grad_x.dtype == u_RM.dtype:
                    grad_x.view(-1, grad_x.shape[2]).addmm_(u_RM.t(), a)
                else:
                    grad_x.add_((u_RM.t() @ a).view_as(grad_x))
        return grad_x, None, None, None, None, None, None, None


class _TappedLinear(nn.Module):
    """Stands in for a LoRA ``nn.Linear`` while gradients are taken; shares its weight."""

    def __init__(self, linear: nn.Linear, collected: _Collected) -> None:
        super().__init__()
        self.weight = linear.weight
        self.collected = collected

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = _PerRecordLinear.apply(x, self.weight, self.collected)  # type: ignore[no-untyped-call]
        return output


class DirectGradients:
    """The direct path's side of ``UnitGradients``."""

    def __init__(self, names: Sequence[str], collected: list[_Collected], batch: _MicroBatch) -> None:
        self._names = names
        self._collected = collected
        self._batch = batch

    def begin(self, groups: RecordGroups) -> None:
        """Before the forward pass: what ``take`` sums over. Without it, every record is a unit."""
        self._batch.num_records, self._batch.runs = len(groups.unit_N), groups.runs()

    def take(self) -> list[Tensor]:
        """The gradients since the last call, fp32 (U, *shape); they are handed over. ``RunError`` if one is missing."""
        grads = []
        for name, collected in zip(self._names, self._collected, strict=True):
            if collected.grad_UP is None:
                raise missing_gradient(name)
            grads.append(collected.grad_UP)
            collected.grad_UP = None
        return grads


def covered_parameters(model: AdaptedModel) -> list[Tensor]:
    """The trainable parameters whose gradients the direct path collects."""
    return [linear.weight for _, linear in model.trainable_linears()]


@contextmanager
def per_record_gradients(model: AdaptedModel) -> Iterator[DirectGradients]:
    """Within the block every backward pass leaves per-record (or per-unit) gradients, and no summed one."""
    batch = _MicroBatch()
    collected = {id(parameter): _Collected(batch) for parameter in model.parameters}
    with ExitStack() as installed:
        for layer in model.lora_layers:
            installed.callback(_install(layer, batch, collected))
        yield DirectGradients(tuple(model.spec.trainable_shapes()), list(collected.values()), batch)


def _install(layer: Any, batch: _MicroBatch, collected: dict[int, _Collected]) -> Callable[[], None]:
    """Replace what ``layer`` runs; returns how to put it back."""
    linear_a, linear_b = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
    a, b = linear_a.weight, linear_b.weight
    if type(layer.base_layer) is nn.Linear and isinstance(layer.lora_dropout[ADAPTER], nn.Identity):
        args = (layer.base_layer, layer.scaling[ADAPTER], batch, collected.get(id(a)), collected.get(id(b)))
        layer.forward = partial(_fused, a, b, args)
        return partial(layer.__dict__.pop, "forward")
    for container, linear in ((layer.lora_A, linear_a), (layer.lora_B, linear_b)):
        if id(linear.weight) in collected:
            container[ADAPTER] = _TappedLinear(linear, collected[id(linear.weight)])

    def restore() -> None:
        layer.lora_A[ADAPTER], layer.lora_B[ADAPTER] = linear_a, linear_b

    return restore


def _fused(a: Tensor, b: Tensor, args: tuple[Any, ...], x: Tensor) -> Tensor:
    output: Tensor = _FusedLora.apply(x, a, b, *args)  # type: ignore[no-untyped-call]
    return output
