"""The privacy loss of one step, on a grid: a Gaussian release of a clipped sum over Poisson-sampled units.

The sensitivity is 1, q the sampling probability, s the noise multiplier. With the unit the release is distributed as
(1-q) N(0, s²) + q N(1, s²), without it as N(0, s²), and with its opposite as (1-q) N(0, s²) + q N(-1, s²).
The loss is the logarithm of the ratio of two of these densities. On the grid it is never smaller than it is: the
distribution is the pessimistic one of Doroshenko et al. 2022, arXiv:2207.04380, algorithm 1 ("connect the dots").
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtri

REMOVE, ADD, REPLACE = "remove", "add", "replace"
"""Which two are compared: with the unit against without, without against with, with it against its opposite."""
_TAIL = math.exp(-50)
_FAR = float(-ndtri(_TAIL / 2))
"""Standard deviations of the noise beyond which a loss counts as infinite, or as the grid's smallest."""
LEAST_NOISE = 0.1
"""With a smaller noise multiplier exp(loss) may be no fp64 number any more, and nobody is protected."""
LEAST_PROBABILITY = 1e-30
"""A smaller chance of being sampled is taken for this one, which costs more."""
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StepLoss:
    """P(loss = (first + i) · interval) for every i, and P(loss = infinity). The probabilities are read-only."""

    first: int
    probabilities: Array
    infinite: float


def loss_bounds(direction: str, sampling_prob: float, noise_multiplier: float) -> tuple[float, float]:
    """The smallest and the largest loss that the grid has to hold; what is beyond has less than 2·10⁻²² of the mass."""
    far = _FAR * noise_multiplier
    low, high = (_log_ratio(direction != REPLACE, sampling_prob, noise_multiplier, x) for x in (-far, 1 + far))
    return (-high, -low) if direction == ADD else (low, high)


def loss_variance(sampling_prob: float, noise_multiplier: float) -> float:
    """Variance of the loss of one step, seen without the unit: what the interval of the grid is held against."""
    z = np.linspace(-_FAR, _FAR, 2001)
    weights = np.exp(-z * z / 2)
    exponent = z / noise_multiplier - 0.5 / noise_multiplier**2
    loss = np.logaddexp(_log(1 - sampling_prob), math.log(sampling_prob) + exponent)
    mean = np.average(loss, weights=weights)
    return float(np.average((loss - mean) ** 2, weights=weights))


@lru_cache(maxsize=16)
def discretise(direction: str, sampling_prob: float, noise_multiplier: float, interval: float) -> StepLoss:
    """The loss of one step on the multiples of ``interval``, rounded so that no delta becomes smaller.

    Its deltas at the points of the grid are the true ones, and between them they are interpolated from above.
    """
    low, high = loss_bounds(direction, sampling_prob, noise_multiplier)
    first, last = math.floor(low / interval), math.ceil(high / interval) + 1
    points = np.asarray(interval * np.arange(first, last + 1), dtype=np.float64)
    deltas = np.minimum.accumulate(np.clip(delta_at(direction, sampling_prob, noise_multiplier, points), 0.0, 1.0))
    slopes = np.diff(deltas) / math.expm1(interval)
    probabilities = np.empty_like(deltas)
    probabilities[0] = 1 - deltas[0] + slopes[0]
    probabilities[1:-1] = slopes[1:] - math.exp(interval) * slopes[:-1]
    probabilities[-1] = -math.exp(interval) * slopes[-1]
    probabilities = np.maximum(probabilities, 0.0)  # below zero by rounding only; more mass is a larger epsilon
    probabilities.setflags(write=False)
    return StepLoss(first, probabilities, float(deltas[-1]))


def delta_at(direction: str, sampling_prob: float, noise_multiplier: float, epsilons: Array) -> Array:
    """Delta of one step at every epsilon, negative ones too; its error is in proportion to P(loss > epsilon)."""
    q, s, log_q = sampling_prob, noise_multiplier, math.log(sampling_prob)
    if direction == REPLACE:
        where = s * (np.arcsinh(np.sinh(epsilons / 2) * (math.exp(0.5 / s**2) * (1 - q) / q)) + epsilons / 2)
        rest = -(1 - q) * np.expm1(epsilons) * np.exp(log_ndtr(-where))
        shifted = np.exp(log_ndtr(1 / s - where)) - np.exp(epsilons + log_ndtr(-1 / s - where))
        return np.asarray(rest + q * shifted)
    sign = 1.0 if direction == REMOVE else -1.0
    # Each form is good to the last digits where it is used.
    ratio = np.where(abs(epsilons) < 0.5, 1 + np.expm1(sign * epsilons) / q, (np.exp(sign * epsilons) - (1 - q)) / q)
    inside = ratio > 0  # elsewhere one density exceeds exp(epsilon) times the other everywhere, or nowhere
    at, exponent = epsilons[inside], np.log(ratio[inside])
    without = s * exponent + 0.5 / s
    with_unit = without - 1 / s
    if direction == REMOVE:
        deltas = -np.expm1(epsilons)
        deltas[inside] = np.exp(log_q + log_ndtr(-with_unit)) - np.exp(log_q + exponent + log_ndtr(-without))
    else:
        deltas = np.zeros_like(epsilons)
        deltas[inside] = np.exp(log_q + at + exponent + log_ndtr(without)) - np.exp(log_q + at + log_ndtr(with_unit))
    return deltas


def _log_ratio(against_nothing: bool, sampling_prob: float, noise_multiplier: float, x: float) -> float:
    """Logarithm of the density with the unit over the one without it (or with its opposite) at ``x``."""
    log_q, log_rest, twice = math.log(sampling_prob), _log(1 - sampling_prob), 2 * noise_multiplier**2
    with_unit = float(np.logaddexp(log_rest, log_q + (2 * x - 1) / twice))
    opposite = float(np.logaddexp(log_rest, log_q + (-2 * x - 1) / twice))
    return with_unit if against_nothing else with_unit - opposite


def _log(probability: float) -> float:
    return math.log(probability) if probability > 0 else -math.inf
