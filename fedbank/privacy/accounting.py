"""How much privacy a list of executed events has cost, by privacy loss distributions.

Knows the mathematics of composition only: no plan, no data, no file. The figures are upper bounds: the distribution of
a step's loss is discretised so that epsilon is never under-reported (``fedbank.privacy.step_loss``), and the numerical
error of composing it is bounded and added to delta (``fedbank.privacy.composition``).

How far above the true epsilon: less than 0.1 % where epsilon is above 1, and less than 0.001 below. The interval of the
grid follows the loss of the steps at hand, from 10⁻³ down to 10⁻⁶, so that this holds for long campaigns with a small
sampling probability as well; but no grid has more than ``MOST_CELLS`` cells, which bounds time and memory. Where the
cells do not suffice the figure is still an upper bound, and up to 3 % or 0.03 too high: more than 10⁴ steps at a
sampling probability of at most 10⁻⁴ and a noise multiplier below 1 (``python -m simulations.benchmarks.accounting``).
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from fedbank.errors import PrivacyError
from fedbank.privacy.composition import MOST_CELLS, compose, find_tilt
from fedbank.privacy.step_loss import (
    ADD,
    LEAST_NOISE,
    LEAST_PROBABILITY,
    REMOVE,
    REPLACE,
    StepLoss,
    discretise,
    loss_bounds,
    loss_variance,
)

LEAST_DELTA = 1e-14
"""Below, the chance that a step's loss lies beyond the grid counts: no figure is given."""
_COARSEST, _FINEST = 1e-3, 1e-3 * 2.0**-10
_CELLS = MOST_CELLS - 4
_MOST_SHARE, _MOST_EXCESS = 5e-4, 2.5e-4
"""Rounding to the grid may add this share to the variance of the loss, or else this much to epsilon."""


ADD_OR_REMOVE_ONE, REPLACE_ONE = "add_or_remove_one", "replace_one"
"""What neighbouring data sets differ in: one unit that is there or not, or one unit with other contents."""
_DIRECTIONS = {ADD_OR_REMOVE_ONE: (REMOVE, ADD), REPLACE_ONE: (REPLACE,)}
_Kinds = tuple[tuple[float, float, int], ...]


@dataclass(frozen=True, slots=True)
class PrivacyEvent:
    """``num_steps`` Gaussian releases of clipped sums over Poisson-sampled units.

    ``noise_multiplier`` is the noise's standard deviation divided by the clip norm, which is the sensitivity to
    adding or removing one unit.
    """

    sampling_prob: float
    noise_multiplier: float
    num_steps: int


@dataclass(frozen=True, slots=True)
class Account:
    """An upper bound of epsilon, and what it took: the grid's interval, and the cells that held the sum of losses."""

    epsilon: float
    interval: float
    cells: int


def compute_epsilon(events: Iterable[PrivacyEvent], delta: float, relation: str = ADD_OR_REMOVE_ONE) -> float:
    """Epsilon at ``delta`` of the composition of ``events`` under ``relation``; 0.0 for none.

    Events that differ in their steps only are one event; the order of the rest changes nothing. Infinite if a noise
    multiplier is below 0.1.

    Raises:
        PrivacyError: ``delta`` is not from ``LEAST_DELTA`` to below 1.
    """
    return _same_everywhere(account(events, delta, relation).epsilon)


def _same_everywhere(epsilon: float) -> float:
    """``epsilon`` rounded up to 12 digits: the last ones of a transform depend on how memory happens to be aligned."""
    return float(f"{epsilon * (1 + 1e-11):.11e}")


def account(events: Iterable[PrivacyEvent], delta: float, relation: str = ADD_OR_REMOVE_ONE) -> Account:
    """``compute_epsilon`` with what it took."""
    if not LEAST_DELTA <= delta < 1:
        raise PrivacyError(
            f"Expected delta from {LEAST_DELTA:g} to below 1, got {delta}: no epsilon can be computed for it. 1e-5 is "
            "usual; set that in the campaign's terms or in the bank's policy."
        )
    steps: Counter[tuple[float, float]] = Counter()
    for event in events:
        steps[event.sampling_prob, event.noise_multiplier] += event.num_steps
    kinds = ((max(q, LEAST_PROBABILITY), noise, count) for (q, noise), count in steps.items() if count)
    return _account(tuple(sorted(kinds)), delta, relation)


def round_up(value: float, digits: int = 2) -> float:
    """``value`` to ``digits`` significant places after the point, never below it: for printed promises."""
    scale = 10.0**digits
    return math.ceil(value * scale - 1e-9) / scale


@lru_cache(maxsize=1024)
def _account(kinds: _Kinds, delta: float, relation: str) -> Account:
    if not kinds:
        return Account(0.0, _COARSEST, 0)
    if any(noise_multiplier < LEAST_NOISE for _, noise_multiplier, _ in kinds):
        return Account(math.inf, _COARSEST, 0)
    ways = (_one_way(kinds, delta, direction) for direction in _DIRECTIONS[relation])
    return max(ways, key=lambda way: way.epsilon)


def _one_way(kinds: _Kinds, delta: float, direction: str) -> Account:
    """Epsilon in one direction, on the finest grid that is wanted and has not too many cells."""
    interval, composed = _interval(kinds, delta, direction) / 2, None
    while composed is None:
        interval *= 2
        composed = compose(_steps(kinds, direction, interval), interval, delta)
    return Account(composed.epsilon, interval, composed.cells)


def _steps(kinds: _Kinds, direction: str, interval: float) -> list[tuple[StepLoss, int]]:
    return [(discretise(direction, q, noise, interval), times) for q, noise, times in kinds]


def _interval(kinds: _Kinds, delta: float, direction: str) -> float:
    """The coarsest interval that adds little to the loss, if the grid of a single step has not too many cells then.

    Rounding a loss to two neighbours on a grid of interval h, keeping its mean, adds h²/6 to its variance on average;
    where it mostly is next to zero, at most h times its standard deviation. Where delta falls with epsilon as
    exp(-t·epsilon), a variance of v more makes epsilon v·(t + 1)/2 larger.
    """
    spreads = [(times, math.sqrt(loss_variance(q, noise))) for q, noise, times in kinds]
    most = _MOST_SHARE * sum(times * spread**2 for times, spread in spreads)
    widest = max(high - low for low, high in (loss_bounds(direction, q, noise) for q, noise, _ in kinds))
    interval = _COARSEST
    while interval > _FINEST and widest <= _CELLS * interval / 2:
        added = sum(times * min(interval**2 / 6, interval * spread) for times, spread in spreads)
        if added <= most:
            break
        if added * (find_tilt(_steps(kinds, direction, interval), interval, delta) + 1) / 2 <= _MOST_EXCESS:
            break
        interval /= 2
    return interval
