"""Epsilon of many steps: the distributions of their losses are composed by FFT, tilted towards epsilon.

An FFT is exact to about 10⁻¹⁶ of the *largest* probability, and delta may be far below. So every probability p(l) is
first multiplied by exp(t·l), with the t that brings the bulk of the sum of all losses to where epsilon is, and divided
by it afterwards: what decides delta is then the largest and has all its digits. Any t gives a valid figure.

What is left of the error is bounded, and the bound is added to delta before epsilon is read off. K(t) is the logarithm
of the moment generating function of the sum of all n losses, u = 2⁻⁵³. Every term of the bound is a mass in the tilted
distribution, and a mass m there adds at most m·exp(K(t) - t·epsilon) to delta:
rounding of the single steps' deltas and of the tilt (256·n·u: a delta is good to some units in the last place of
P(loss > epsilon), and composition adds such errors up), the FFTs and the power (``_fft_error``), and what lies beyond
the window and wraps around (Chernoff).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft
from scipy.signal import lfilter

from fedbank.privacy.step_loss import StepLoss

MOST_CELLS = 2**20
"""Of the grid of one step, and of the window of their sum."""
_ROUNDING = 2.0**-53
_STEP_ERROR = 256 * _ROUNDING
_ABOVE, _BELOW = 1e-12, 1e-6
"""Most of the tilted mass that may lie above the window (it counts as error) and below it (it only adds to delta)."""
_MOST_EXPONENT = 600.0
_MOST_TRIES = 30
_REACH = (1.5, 2.5, 4.0, 7.0, 12.0, 30.0)
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Composition:
    """Epsilon, and with what effort: ``cells`` of the window that held the sum of all losses."""

    epsilon: float
    cells: int


@dataclass(frozen=True, slots=True)
class _Window:
    """Points ``first`` to ``first + cells - 1`` of the grid; the tilted sum is ``centre`` on average."""

    tilt: float
    log_moment: float
    centre: float
    first: int
    cells: int


def compose(steps: Sequence[tuple[StepLoss, int]], interval: float, delta: float) -> Composition | None:
    """An upper bound of epsilon at ``delta`` of (loss, times) for every kind of step.

    ``None`` if the window would have more than ``MOST_CELLS`` cells: a coarser interval needs fewer. Memory is thereby
    some ten arrays of ``MOST_CELLS`` fp64 numbers (100 MB), time a few FFTs of them (about half a second).
    """
    window = _window(steps, interval, delta)
    if window.cells > MOST_CELLS:
        return None
    tilted, error = _tilted_sum(steps, interval, window)
    infinite = sum(loss.infinite * times for loss, times in steps)
    return Composition(_epsilon(tilted, error, infinite, interval, delta, window), window.cells)


def _moments(steps: Sequence[tuple[StepLoss, int]], interval: float, tilt: float) -> tuple[float, float, float]:
    """K(tilt) and its first two derivatives: mean and variance of the tilted sum."""
    log_moment, mean, variance = 0.0, 0.0, 0.0
    for loss, times in steps:
        points = np.arange(loss.first, loss.first + len(loss.probabilities)) * interval
        exponents = tilt * points
        top = float(exponents[-1] if tilt > 0 else exponents[0])
        weights = loss.probabilities * np.exp(np.maximum(exponents - top, -_MOST_EXPONENT))
        total = float(weights.sum())
        first = float(weights @ points) / total
        log_moment += times * (top + math.log(total))
        mean += times * first
        variance += times * float(weights @ (points - first) ** 2) / total
    return log_moment, mean, variance


def find_tilt(steps: Sequence[tuple[StepLoss, int]], interval: float, delta: float) -> float:
    """The t at which Chernoff's bound of delta is best: t·K'(t) - K(t) = log(1/delta), by Newton, to some per cent."""
    aim, tilt, tries = math.log(1 / delta), 0.0, 0
    low, high, short = 0.0, math.inf, math.inf
    while abs(short) > 0.02 * aim and tries < _MOST_TRIES:
        log_moment, mean, variance = _moments(steps, interval, tilt)
        short, tries = aim - (tilt * mean - log_moment), tries + 1
        low, high = (tilt, high) if short > 0 else (low, tilt)
        # The left side grows like t²·K''/2.
        newton = math.sqrt(max(0.0, tilt * tilt + 2 * short / max(variance, interval**2)))
        tilt = newton if high == math.inf or low < newton < high else (low + high) / 2
    return tilt


def _window(steps: Sequence[tuple[StepLoss, int]], interval: float, delta: float) -> _Window:
    """The points between which nearly all of the tilted sum lies."""
    tilt = find_tilt(steps, interval, delta)
    log_moment, centre, variance = _moments(steps, interval, tilt)
    scale = math.sqrt(max(variance, interval**2))
    lowest = interval * sum(loss.first * times for loss, times in steps)
    highest = lowest + interval * sum((len(loss.probabilities) - 1) * times for loss, times in steps)
    for more in (reach / scale for reach in _REACH):
        above, below = (_moments(steps, interval, tilt + side * more)[0] - log_moment for side in (1, -1))
        highest = min(highest, (above - math.log(_ABOVE)) / more)
        lowest = max(lowest, (math.log(_BELOW) - below) / more)
    lowest = max(lowest, centre - _MOST_EXPONENT / tilt)  # epsilon is never as far down; if it were, this is reported
    first = math.floor(lowest / interval)
    cells = next_fast_len(math.ceil(highest / interval) - first + 2, real=True)
    return _Window(tilt, log_moment, centre, first, cells)


def _tilted_sum(steps: Sequence[tuple[StepLoss, int]], interval: float, window: _Window) -> tuple[Array, float]:
    """The tilted distribution of the sum on the window, and a bound on the mass by which it is wrong."""
    log_sum, offset, kinds = np.zeros(window.cells // 2 + 1, np.complex128), 0, []
    for loss, times in steps:
        exponents = window.tilt * interval * np.arange(loss.first, loss.first + len(loss.probabilities))
        tilted = loss.probabilities * np.exp(exponents - exponents[-1])
        tilted /= tilted.sum()
        folded = np.bincount(np.arange(len(tilted)) % window.cells, weights=tilted, minlength=window.cells)
        transform = rfft(folded)
        transform[transform == 0] = np.finfo(np.float64).tiny
        kinds.append((np.log(np.abs(transform)), times))
        log_sum += times * np.log(transform)
        offset += times * loss.first
    summed = irfft(np.exp(log_sum), window.cells)
    error = _ABOVE + _STEP_ERROR * sum(times for _, times in steps) + _fft_error(log_sum.real, kinds, window.cells)
    return np.maximum(np.roll(summed, offset - window.first), 0.0), error


def _fft_error(log_sum: Array, kinds: Sequence[tuple[Array, int]], cells: int) -> float:
    """Mass by which rounding in the transforms and in the power can change the sum.

    Every coefficient of a transform is a sum of all probabilities, each multiplied and added log2(cells) times with a
    relative error of some u: off by at most 8·log2(cells)·u, since they sum to 1. So the product is off by as much
    times the number of steps and what the other steps leave of it, and by its own rounding. The mass is at most the L2
    norm of all these errors.
    """
    transform = 8 * math.log2(cells) * _ROUNDING
    error = (transform + 16 * _ROUNDING * sum(times for _, times in kinds)) * _norm(log_sum)
    return error + sum(times * transform * _norm(log_sum - log_size) for log_size, times in kinds)


def _norm(log_half: Array) -> float:
    """L2 norm of a real array's transform, from the logarithms of the sizes of its first half."""
    return math.sqrt(2 * float(np.exp(2 * np.minimum(log_half, 0.0)).sum()))


def _epsilon(tilted: Array, error: float, infinite: float, interval: float, delta: float, window: _Window) -> float:
    """The smallest epsilon whose delta, with all errors added, is at most ``delta``.

    In units of exp(K - t·centre), delta(e) is the sum over l > e of w(l)·(1 - exp(e - l)) with the weights
    w(l) = tilted(l)·exp(-t·(l - centre)).
    """
    scale = window.log_moment - window.tilt * window.centre
    left = (delta - infinite) * math.exp(-scale) if delta > infinite else -1.0
    points = (window.first + np.arange(len(tilted))) * interval
    decay = np.exp(-window.tilt * (points - window.centre))
    weights = tilted * decay
    mass = np.cumsum(weights[::-1])[::-1]
    discounted = lfilter([1.0], [1.0, -math.exp(-interval)], weights[::-1])[::-1]  # sum of w(l)·exp(e - l), l >= e
    enough = np.flatnonzero(mass - discounted + error * decay <= left)
    if not len(enough):
        return math.inf
    at = int(enough[0])
    if at == 0 or points[at] <= 0:
        return max(0.0, float(points[at]))
    below = mass[at] + error * decay[at - 1] - left
    found = points[at] + math.log(below / discounted[at]) if below > 0 else points[at - 1]
    return max(0.0, float(min(max(found, points[at - 1]), points[at])))
