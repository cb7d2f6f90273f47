"""Clipping of per-unit gradients: whoever bounds the sensitivity reports it.

U units, P trainable parameters. Norms, coefficients and sums in fp64: in fp32 the norm of millions of coordinates is
off by more than 1e-4, and so is a sum over thousands of units whose order one unit more has changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_WITHIN = 1 - 2.0**-20
"""Share of the clip norm that is used: what is left takes up the rounding of coefficients, products and sums."""


@dataclass(frozen=True, slots=True)
class ClippedSum:
    """The sum over units of clipped gradients, one fp64 tensor per parameter, with its L2 sensitivity.

    Adding or removing one unit changes ``tensors`` (taken together) by at most ``sensitivity`` in L2.
    """

    tensors: tuple[Tensor, ...]
    sensitivity: float

    def plus(self, other: "ClippedSum") -> "ClippedSum":
        """The sum over two disjoint sets of units: one unit is in one of them only, so the bounds do not add."""
        tensors = tuple(mine + theirs for mine, theirs in zip(self.tensors, other.tensors, strict=True))
        return ClippedSum(tensors, max(self.sensitivity, other.sensitivity))


def clip_and_sum(grads_UP: Sequence[Tensor], clip_norm: float) -> ClippedSum:
    """Scale every unit's gradient to norm at most ``clip_norm`` and add them up.

    ``grads_UP``: one tensor (U, *shape) per parameter. The coefficient is min(1, C/‖g‖) (Abadi et al. 2016,
    Alg. 1); a unit whose gradient is not finite gets coefficient 0, silently: an exception would itself
    reveal that the unit is there.
    """
    flat = [grad.flatten(1) for grad in grads_UP]
    blocks_U = [torch.linalg.vector_norm(block, dim=1, dtype=torch.float64) for block in flat]
    norms_U = torch.linalg.vector_norm(torch.stack(blocks_U), dim=0)
    finite_U = torch.isfinite(norms_U)
    coefficients_U = (_WITHIN * clip_norm / norms_U.clamp_min(torch.finfo(torch.float64).tiny)).clamp(max=1.0)
    coefficients_U = torch.where(finite_U, coefficients_U, torch.zeros_like(coefficients_U))
    all_finite, sums = bool(finite_U.all()), []
    for block, grad in zip(flat, grads_UP, strict=True):
        safe = block if all_finite else torch.where(finite_U[:, None], block, torch.zeros_like(block))
        sums.append((coefficients_U @ safe.double()).reshape(grad.shape[1:]))
    return ClippedSum(tuple(sums), clip_norm)
