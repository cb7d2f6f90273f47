"""The accountant against ``dp_accounting``'s on a finer grid: is epsilon ever under-reported?

First line: calibration against a table of noise multipliers; ``max_deviation`` is relative, the target is 1 %.
Second line: 500 random plans.
``under_reports``: plans whose epsilon is below the finer figure by more than its own rounding; the target is 0.
``max_excess``: the largest relative amount by which ours is above, where epsilon is above 1; the target is 0.1 %.
``ratio_finer``, ``ratio_same_grid``: time of the library's accountant on the finer grid and at 1e-3 over ours.
Third line: steps without sampling at deltas down to 1e-14, against the closed form; ``library_under_reports`` are the
library's own, at an interval of 1e-3. Fourth line: long campaigns with a small sampling probability, against an
integral without any grid, and what the library says at 1e-3; ``most_cells`` is what bounds time and memory.
Fifth line: where the cells do not suffice.
"""

import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from scipy.optimize import brentq
from scipy.special import log_ndtr

from fedbank.privacy.accounting import LEAST_DELTA, PrivacyEvent, account, compute_epsilon
from fedbank.privacy.plan import PrivacyPlan, Sampling
from simulations.benchmarks.contour import contour_epsilon
from simulations.benchmarks.harness import publish

PLANS = 500
SIGMA_TABLE = {
    (2_000, 256, 100): (4.97, 2.03, 1.08),
    (5_000, 512, 150): (4.85, 1.98, 1.06),
    (10_000, 256, 100): (1.33, 0.82, 0.57),
    (10_000, 1024, 300): (6.75, 2.65, 1.31),
    (20_000, 512, 200): (1.63, 0.91, 0.62),
    (50_000, 1024, 300): (1.62, 0.90, 0.62),
    (100_000, 1024, 300): (1.08, 0.74, 0.53),
}
"""(customers, batch, steps): noise multiplier at epsilon 1, 3 and 8 (PLD, Poisson, add or remove one), two decimals."""
LONG = [
    (0.001, 2.0, 200_000),
    (0.0005, 3.0, 2**20),
    (0.003, 6.0, 400_000),
    (0.0001, 1.5, 2**20),
    (0.01, 30.0, 300_000),
    (0.0002, 1.0, 100_000),
]
TOO_LONG = [(1e-4, 0.7, 2**20), (1e-5, 0.7, 2**20), (1e-4, 0.7, 20_000)]
_ROUNDING = 1e-6


def finer_epsilon(event: PrivacyEvent, delta: float, interval: float = 1e-4) -> float:
    """By dp_accounting, at its default interval of 1e-4."""
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, interval)
    step = PoissonSampledDpEvent(event.sampling_prob, GaussianDpEvent(event.noise_multiplier))
    accountant.compose(SelfComposedDpEvent(step, event.num_steps))
    return float(accountant.get_epsilon(delta))


def calibration() -> dict[str, Any]:
    """The table, calibrated."""
    rows = []
    for (customers, batch, steps), row in SIGMA_TABLE.items():
        sampling = Sampling.for_population(customers, batch, 1, steps)
        for target, expected in zip((1, 3, 8), row, strict=True):
            plan = PrivacyPlan.calibrate(target, None, sampling, 1.0, customers)
            rows.append((plan.noise_multiplier, expected, plan.epsilon() <= target))
    return {
        "calibrated": len(rows),
        "max_deviation": round(max(abs(found - expected) / expected for found, expected, _ in rows), 4),
        "promises_kept": sum(kept for _, _, kept in rows),
    }


def compare() -> Iterator[dict[str, Any]]:
    """Calibration, then one line over all random plans."""
    yield calibration()
    rng = np.random.default_rng(0)
    ours, finer, seconds = [], [], [0.0, 0.0, 0.0]
    for _ in range(PLANS):
        sampling_prob = float(np.exp(rng.uniform(np.log(0.005), np.log(0.5))))
        event = PrivacyEvent(sampling_prob, float(rng.uniform(0.7, 6)), int(rng.integers(1, 300)))
        delta = float(10 ** rng.uniform(-7, -4))
        began = time.perf_counter()
        found = account([event], delta)
        ours.append(found.epsilon)
        between = time.perf_counter()
        finer.append(finer_epsilon(event, delta, min(1e-4, found.interval / 4)))
        later = time.perf_counter()
        finer_epsilon(event, delta, 1e-3)
        for place, spent in enumerate((between - began, later - between, time.perf_counter() - later)):
            seconds[place] += spent
    excess = np.asarray(ours) - np.asarray(finer)
    large = np.asarray(finer) > 1
    yield {
        "plans": PLANS,
        "under_reports": int((excess < -_ROUNDING).sum()),
        "max_excess": round(float((excess / finer)[large].max()), 6),
        "max_absolute_excess": round(float(excess.max()), 6),
        "largest_epsilon": round(max(ours), 2),
        "ratio_finer": round(seconds[1] / seconds[0], 1),
        "ratio_same_grid": round(seconds[2] / seconds[0], 1),
    }
    yield small_deltas()
    yield long_campaigns("long", LONG)
    yield long_campaigns("too long", TOO_LONG)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Epsilon of a Gaussian release of sensitivity ``mu`` (Balle and Wang 2018, theorem 8)."""

    def log_delta(epsilon: float) -> float:
        high, low = float(log_ndtr(mu / 2 - epsilon / mu)), epsilon + float(log_ndtr(-mu / 2 - epsilon / mu))
        return high + math.log1p(-math.exp(min(low - high, -1e-15)))

    return float(brentq(lambda epsilon: log_delta(epsilon) - math.log(delta), 0.0, mu * (mu / 2 + 12)))


def small_deltas() -> dict[str, Any]:
    """300 campaigns without sampling, at deltas from 1e-14 to 1e-6."""
    rng = np.random.default_rng(1)
    ours, library = [], []
    for _ in range(300):
        steps, mu = int(np.exp(rng.uniform(0, np.log(20_000)))), float(np.exp(rng.uniform(np.log(0.3), np.log(6))))
        delta = float(10 ** rng.uniform(np.log10(LEAST_DELTA), -6))
        event, true = PrivacyEvent(1.0, max(0.2, math.sqrt(steps) / mu), steps), 0.0
        true = gaussian_epsilon(math.sqrt(steps) / event.noise_multiplier, delta)
        ours.append(compute_epsilon([event], delta) / true - 1)
        library.append(finer_epsilon(event, delta, 1e-3) / true - 1)
    return {
        "small_deltas": len(ours),
        "under_reports": int((np.asarray(ours) < -1e-9).sum()),
        "max_excess": round(max(ours), 6),
        "library_under_reports": int((np.asarray(library) < -1e-9).sum()),
        "library_lowest": round(min(library), 4),
    }


def long_campaigns(name: str, campaigns: list[tuple[float, float, int]]) -> dict[str, Any]:
    """Every campaign at delta 1e-6."""
    excess, absolute, cells, coarse = [], [], 0, []
    for campaign in campaigns:
        event = PrivacyEvent(*campaign)
        found = account([event], 1e-6)
        finer = contour_epsilon(*campaign, 1e-6, points=400)
        excess.append(found.epsilon / finer - 1)
        absolute.append(found.epsilon - finer)
        cells = max(cells, found.cells)
        coarse.append(finer_epsilon(event, 1e-6, 1e-3) / finer - 1)
    return {
        "campaigns": name,
        "compared": len(campaigns),
        "under_reports": int((np.asarray(excess) < -1e-6).sum()),
        "max_excess": round(max(excess), 6),
        "max_absolute_excess": round(max(absolute), 6),
        "most_cells": cells,
        "max_excess_at_1e-3": round(max(coarse), 4),
    }


if __name__ == "__main__":
    publish("accounting", compare())
