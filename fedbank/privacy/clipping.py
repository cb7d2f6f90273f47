"""Clipping of per-unit gradients into an exact sum: what bounds the sensitivity also reports it.

U units, P trainable parameters. Norms and coefficients are computed in fp64, then every clipped gradient is rounded
toward zero to a grid of ``GRID_STEPS`` steps a clip norm and added up in integers. Integers add without rounding, in
any order: one unit more or fewer moves the sum by that unit's own vector, which is at most a clip norm long. That is a
theorem and not "up to rounding":

A norm is √ of a sum of P squares in fp64, added in a tree of depth ⌈log₂ P⌉ ≤ 40, so it is exact to a factor of
1 ± 2⁻⁴⁶. The coefficient makes the product at most (1 - 2⁻²⁰)·C·(1 + 2⁻⁴⁵) < C long, and rounding every coordinate
toward zero makes no vector longer.

All operations on more than one unit are elementwise, so that no unit's figures depend on how many others there are:
a library's own sum may add in an order that depends on the number of rows and threads.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

GRID_STEPS = 2**40
"""Steps of the grid in one clip norm. 2²² units of full length along one coordinate are below 2⁶³."""
_WITHIN = 1 - 2.0**-20
"""Share of the clip norm that is used: what is left takes up the rounding of norms and coefficients."""


@dataclass(frozen=True, slots=True)
class ClippedSum:
    """The sum over units of clipped gradients, one int64 tensor per parameter, in steps of ``step``.

    Adding or removing one unit changes the sum (all tensors taken together) by at most ``sensitivity`` in L2.
    """

    steps: tuple[Tensor, ...]
    step: float
    sensitivity: float

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The sum in fp64, for comparing and showing; what is released is made from the integers."""
        return tuple(tensor.double() * self.step for tensor in self.steps)

    def plus(self, other: "ClippedSum") -> "ClippedSum":
        """The sum over two disjoint sets of units: one unit is in one of them only, so the bounds do not add."""
        if self.step != other.step:
            raise ValueError(f"expected two sums on one grid, got steps of {self.step} and {other.step}")
        steps = tuple(mine + theirs for mine, theirs in zip(self.steps, other.steps, strict=True))
        return ClippedSum(steps, self.step, max(self.sensitivity, other.sensitivity))


def clip_and_sum(grads_UP: Sequence[Tensor], clip_norm: float) -> ClippedSum:
    """Scale every unit's gradient to norm at most ``clip_norm``, round it toward zero to the grid, and add them up.

    ``grads_UP``: one tensor (U, *shape) per parameter. The coefficient is min(1, C/‖g‖) (Abadi et al. 2016,
    Alg. 1); a unit whose gradient is not finite gets coefficient 0, silently: an exception would itself
    reveal that the unit is there.
    """
    step = clip_norm / GRID_STEPS
    norms_U = _add_up(torch.stack([_squared_norms(grad) for grad in grads_UP], dim=1)).sqrt()
    finite_U = torch.isfinite(norms_U)
    scaled_U = (_WITHIN * clip_norm / norms_U.clamp_min(torch.finfo(torch.float64).tiny)).clamp(max=1.0) / step
    all_finite, sums = bool(finite_U.all()), []
    for grad in grads_UP:
        block = grad.flatten(1).double()
        safe = block if all_finite else block.masked_fill(~finite_U[:, None], 0.0)
        steps_UP = (safe * scaled_U.masked_fill(~finite_U, 0.0)[:, None]).to(torch.int64)  # toward zero
        sums.append(steps_UP.sum(dim=0).reshape(grad.shape[1:]))
    return ClippedSum(tuple(sums), step, clip_norm)


def _squared_norms(grad_UP: Tensor) -> Tensor:
    """(U,) sums of squares in fp64."""
    return _add_up(grad_UP.flatten(1).double().square())


def _add_up(values_UP: Tensor) -> Tensor:
    """(U, P) to (U,): each row's sum, in a tree whose form depends on P only."""
    while values_UP.shape[1] > 1:
        half = (values_UP.shape[1] + 1) // 2
        first, second = values_UP[:, :half], values_UP[:, half:]
        values_UP = first + functional.pad(second, (0, half - second.shape[1]))
    return values_UP.flatten() if values_UP.shape[1] else values_UP.new_zeros(len(values_UP))
