"""The largest L2 norm that an honest update can have, from public values only.

An update is the change of P parameters after T local steps. A bank whose update is longer than these bounds has not
done what was agreed. Updates beyond are refused, never rescaled: rescaling would keep a poisoned direction.
"""

import math
from collections.abc import Mapping

from fedbank.privacy.numbers import PlanNumbers

_ROUNDING = 1e-6
"""Absolute, per parameter and step: what fp32 loses where parameters are below 8 in size."""
_SLACK = 1.01
_WITHOUT_PRIVACY = 1e4
"""L2 norm of an update."""


def update_norm_bounds(
    num_parameters: int,
    num_steps: int,
    optimizer: str,
    learning_rate: float,
    momentum: float,
    plans: Mapping[str, PlanNumbers | None],
) -> dict[str, float]:
    """What no honest update of each bank exceeds in a round, from that bank's plan alone.

    Without privacy (``None``) SGD has no such norm. A finite one holds all the same, far above what training does: an
    update of 1e38 would overflow the average, and with it every round that comes after.
    """

    def bound(plan: PlanNumbers | None) -> float:
        if optimizer == "adam":
            return adam_norm_bound(num_parameters, num_steps, learning_rate)
        if plan is None:
            return _WITHOUT_PRIVACY
        return sgd_norm_bound(
            num_parameters,
            num_steps,
            learning_rate,
            momentum,
            clip_norm=plan.clip_norm,
            noise_multiplier=plan.noise_multiplier,
            expected_batch=plan.sampling.expected_batch_size,
        )

    return {bank: bound(plan) for bank, plan in plans.items()}


def noise_std(plan: PlanNumbers | None) -> float:
    """Of the noise in a coordinate of one step's gradient: σC/E; 0 without privacy."""
    return 0.0 if plan is None else plan.noise_multiplier * plan.clip_norm / plan.sampling.expected_batch_size


def noise_norms(
    num_parameters: int,
    num_steps: int,
    optimizer: str,
    learning_rate: float,
    momentum: float,
    stds: Mapping[str, float],
) -> dict[str, float]:
    """The L2 norm that noise alone gives each bank's update, to a few per cent: η·std·√P·√(Σ_t c_t²).

    ``stds`` are those of each bank's plan (``noise_std``).
    The noise of every step is drawn anew, so its squares add up; c_t is how often a step's gradient counts with
    momentum. 0 for Adam, which moves every coordinate by about η whatever the noise is: there the norms of all banks
    are alike without it.
    """
    counted = math.sqrt(sum(count * count for count in _counts(num_steps, momentum)))
    scale = 0.0 if optimizer == "adam" else learning_rate * math.sqrt(num_parameters) * counted
    return {bank: scale * std for bank, std in stds.items()}


def adam_norm_bound(
    num_parameters: int, num_steps: int, learning_rate: float, beta1: float = 0.9, beta2: float = 0.999
) -> float:
    """Certain, whatever gradients, clipping and noise were: η·√P·Σ_t √(Σ_i a_i²/b_i).

    Adam (Kingma and Ba 2015, Alg. 1) moves a coordinate by η·m̂/(√v̂ + ε), where m̂ = Σ a_i·g_i and v̂ = Σ b_i·g_i² with
    a_i = (1-β₁)β₁^(t-i)/(1-β₁^t) and b_i likewise from β₂. By Cauchy and Schwarz m̂² ≤ (Σ a_i²/b_i)·v̂. Its state starts
    empty in every round, as FedBank's banks do. The default betas are those that banks train with.
    """
    ratios = 0.0
    for step in range(1, num_steps + 1):
        ages = range(step)  # t - i
        first = [(1 - beta1) * beta1**age / (1 - beta1**step) for age in ages]
        second = [(1 - beta2) * beta2**age / (1 - beta2**step) for age in ages]
        ratios += math.sqrt(sum(a * a / b for a, b in zip(first, second, strict=True)))
    return _SLACK * math.sqrt(num_parameters) * (learning_rate * ratios + _ROUNDING * num_steps)


def sgd_norm_bound(
    num_parameters: int,
    num_steps: int,
    learning_rate: float,
    momentum: float,
    *,
    clip_norm: float,
    noise_multiplier: float,
    expected_batch: float,
    failure_prob: float = 1e-12,
) -> float:
    """Exceeded by an honest round with probability below ``failure_prob``.

    A step's gradient is (Σ clipped + N(0, σ²C²·I_P))/E. The sum has at most n·C, with n the number of sampled units:
    binomial with a mean of at most 1.1·E (declared sizes are rounded down to two digits), hence below
    μ + √(2μL) + L by Bernstein's inequality. The noise has at most σC(√P + √(2L)) (Laurent and Massart 2000, Lemma
    1), rounding it to the grid adds less than σC·√P·10⁻³. L = ln(2T/failure_prob): both hold in all T steps. With
    momentum m, the gradient of a step with s steps left counts (1-mˢ)/(1-m) times.
    """
    tail = math.log(2 * num_steps / failure_prob)
    mean = 1.1 * expected_batch
    units = mean + math.sqrt(2 * mean * tail) + tail
    noise = noise_multiplier * (1.001 * math.sqrt(num_parameters) + math.sqrt(2 * tail))
    gradient = clip_norm * (units + noise) / expected_batch
    counted = sum(_counts(num_steps, momentum))
    return _SLACK * (learning_rate * counted * gradient + _ROUNDING * num_steps * math.sqrt(num_parameters))


def _counts(num_steps: int, momentum: float) -> list[float]:
    """How often the gradient of a step counts in the whole change, by the number of steps that are left."""
    return [(1 - momentum**left) / (1 - momentum) for left in range(1, num_steps + 1)]
