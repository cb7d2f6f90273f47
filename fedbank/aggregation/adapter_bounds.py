"""How far a global adapter can be from its start after so many rounds, from the public terms only.

Whatever the banks' customers, noise and numbers were, no campaign that keeps to its terms gets further. What is beyond
was made to do harm: values that overflow, or rows that cancel up to rounding. Defence in depth: that a customer's
gradient is that customer's alone does not rest on it.

U bounds the L2 norm of every honest update (``largest_update``), hence that of their weighted mean. The server step
moves the trained tensors, all taken together, in round t by at most

* ``mean``: η·U;
* ``momentum``: η·U·(1-β₁ᵗ)/(1-β₁), since m is a geometric sum of changes;
* ``adam``: η·min(U·(1-β₁ᵗ)/τ, √P·(1-β₁)/√(1-β₂)·√(Σ_{i<t} (β₁²/β₂)ⁱ)): the first since √v ≥ 0, the second by Cauchy
  and Schwarz as in ``norms.adam_norm_bound``. ``fedsvd`` turns the moments, and only the first holds.

D_n is the sum over n rounds. B starts at 0, so ‖B‖ ≤ D_n. ``fedsvd`` replaces (A, B) by (RᵀA, B·R) with an orthogonal R
of r x r, which changes no norm, and leaves A's rows orthonormal. So ‖ΔW‖ = s·‖BA‖ ≤ s·D_n·‖A‖₂ with ‖A‖₂ = 1 where A is
not trained, and at most 1 + D_n where it is. Norms are Frobenius' but for ‖A‖₂; an entry is at most its matrix's norm.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedbank.adapter.state import AdapterSpec, Tensors
from fedbank.aggregation.norms import adam_norm_bound, sgd_norm_bound
from fedbank.aggregation.server_step import ServerStep
from fedbank.errors import UpdateError
from fedbank.privacy.accounting import LEAST_DELTA

CEILING = 1e6
"""Nothing may be larger, whatever the terms allow: without privacy SGD has no bound at all."""
_SLACK, _ROUNDING = 1.01, 1e-3
_ORTHONORMAL = 1e-3


@dataclass(frozen=True, slots=True)
class Reach:
    """What bounds a campaign's adapter: ``largest_update`` is U, the L2 norm that no honest update exceeds."""

    spec: AdapterSpec
    rule: str
    step: ServerStep
    largest_update: float


@dataclass(frozen=True, slots=True)
class AdapterBound:
    """The largest entry of A and of B in size, and the largest ‖ΔW‖ = s·‖BA‖ of one pair."""

    a_entry: float
    b_entry: float
    product: float


def adapter_bound(reach: Reach, rounds: int) -> AdapterBound:
    """What no adapter of an honest campaign exceeds after ``rounds`` rounds."""
    moved = _SLACK * sum(_server_move(reach, number) for number in range(1, rounds + 1)) + _ROUNDING
    spread = 1.0 + (moved if reach.spec.trainable == "AB" else _ROUNDING)
    found = (spread, moved, reach.spec.scale * moved * spread)
    return AdapterBound(*(min(value, CEILING) for value in found))


def check_adapter(reach: Reach, adapter: Tensors, rounds: int) -> None:
    """``UpdateError`` if ``adapter`` is not one that ``rounds`` rounds of the campaign can lead to."""
    bound = adapter_bound(reach, rounds)
    for pair in reach.spec.pairs:
        a, b = adapter[pair.a_name], adapter[pair.b_name]
        for name, tensor, largest in ((pair.a_name, a, bound.a_entry), (pair.b_name, b, bound.b_entry)):
            if not (found := float(np.abs(tensor).max(initial=0.0))) <= largest:
                raise _beyond(f"every value of {name} at most {largest:.6g} in size", found, rounds)
        if reach.spec.trainable == "B" and not (tilt := _tilt(a)) <= _ORTHONORMAL:
            raise _beyond(f"the rows of {pair.a_name} orthonormal", 1 + tilt, rounds)
        if not (norm := reach.spec.scale * product_norm(a, b)) <= bound.product:
            raise _beyond(f"the change of {pair.name} at most {bound.product:.6g} in norm", norm, rounds)


def product_norm(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """‖BA‖ (Frobenius) of A (r, n) and B (m, r), from r x r matrices in fp64: ‖BA‖² = tr(BᵀB·AAᵀ)."""
    wide, tall = a.astype(np.float64), b.astype(np.float64)
    return math.sqrt(max(0.0, float(((tall.T @ tall) * (wide @ wide.T)).sum())))


def largest_update(
    num_parameters: int,
    num_steps: int,
    rounds: int,
    optimizer: str,
    learning_rate: float,
    momentum: float,
    *,
    epsilon: float | None,
    delta: float | None,
    clip_norm: float | None,
) -> float:
    """U: the L2 norm that an honest update of no bank exceeds, whatever its size; infinity for SGD without privacy.

    ``num_steps`` is that of a round. A bank's update is longest where its expected batch is smallest, one customer,
    and its noise largest. Sampling only lowers the noise that epsilon needs: at q = 1 it is at most that of ρ-zCDP
    (Bun and Steinke 2016, Prop. 1.3): σ² = T/(2ρ) with √ρ = √(L + ε) - √L, L = ln(1/δ), for T steps in the campaign.
    """
    if optimizer == "adam":
        return adam_norm_bound(num_parameters, num_steps, learning_rate)
    if epsilon is None or clip_norm is None:
        return math.inf
    tail = -math.log(LEAST_DELTA if delta is None else delta)  # None: each bank derives its own
    root = epsilon / (math.sqrt(tail + epsilon) + math.sqrt(tail))
    noise = max(1.0, 1.01 * math.sqrt(num_steps * rounds / 2) / root)
    return sgd_norm_bound(
        num_parameters,
        num_steps,
        learning_rate,
        momentum,
        clip_norm=clip_norm,
        noise_multiplier=noise,
        expected_batch=1.0,
    )


def _server_move(reach: Reach, number: int) -> float:
    """How far the server step of round ``number`` moves the trained tensors at most."""
    step, longest = reach.step, reach.largest_update
    if step.kind == "mean":
        return step.learning_rate * longest
    gathered = longest * (1 - step.beta1**number)
    if step.kind == "momentum":
        return step.learning_rate * gathered / (1 - step.beta1)
    by_tau = gathered / step.tau if step.tau > 0 else math.inf
    ratio = step.beta1**2 / step.beta2 if step.beta2 > 0 else math.inf
    total, power = 0.0, 1.0
    for _ in range(number):
        total, power = total + power, power * ratio
    by_moments = (1 - step.beta1) / math.sqrt(1 - step.beta2) * math.sqrt(reach.spec.num_trainable() * total)
    return step.learning_rate * (by_tau if reach.rule == "fedsvd" else min(by_tau, by_moments))


def _tilt(a: NDArray[np.float32]) -> float:
    """How far the rows of A are from orthonormal: the largest entry of AAᵀ - 1 in size."""
    wide = a.astype(np.float64)
    return float(np.abs(wide @ wide.T - np.eye(len(wide))).max(initial=0.0))


def _beyond(expected: str, found: float, rounds: int) -> UpdateError:
    return UpdateError(
        f"Expected a global adapter with {expected} after {rounds} rounds, as the campaign's terms have it, got "
        f"{found:.6g}. Nothing was charged and nothing was trained."
    )
