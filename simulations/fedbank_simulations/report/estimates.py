"""How sure a figure is: intervals over seeds (Student) and over questions (Wilson)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds with its confidence interval; ``low`` and ``high`` are None for a single seed."""

    mean: float
    low: float | None
    high: float | None
    values: tuple[float, ...]


def estimate(
    values: Sequence[float], confidence: float = 0.95, bounds: tuple[float, float] = (-math.inf, math.inf)
) -> Estimate:
    """Mean and Student's t interval, mean ± t(k−1)·s/√k, of ``k`` independent runs.

    The interval ends at ``bounds``, which no value can pass.
    With one value, or one that is not finite, there is no interval.
    """
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2 or not math.isfinite(mean):
        return Estimate(mean, None, None, tuple(values))
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = float(stats.t.ppf(0.5 + confidence / 2, df=count - 1)) * deviation / math.sqrt(count)
    low, high = bounds
    return Estimate(mean, max(low, mean - half), min(high, mean + half), tuple(values))


def wilson_interval(share: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a share of ``n`` independent questions (Wilson 1927); NaN where it is undefined."""
    if n <= 0 or not 0 <= share <= 1:
        return math.nan, math.nan
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return center - half, center + half
