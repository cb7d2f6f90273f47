"""The accountant against ``dp_accounting``'s own, ten times finer one: is epsilon ever under-reported?

First line: calibration against a table of noise multipliers; ``max_deviation`` is relative, the target is 1 %.
Second line: 500 random plans.
``under_reports``: plans whose epsilon is below the finer figure by more than its own rounding; the target is 0.
``max_excess``: the largest relative amount by which ours is above, where epsilon is above 1; the target is 1 %.
``ratio_finer``: time of the finer accountant over ours.
"""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant

from fedbank.privacy.accounting import PrivacyEvent, compute_epsilon
from fedbank.privacy.plan import PrivacyPlan, Sampling
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
_ROUNDING = 1e-6


def finer_epsilon(event: PrivacyEvent, delta: float) -> float:
    """By dp_accounting at its default interval of 1e-4."""
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
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
    ours, finer, seconds = [], [], [0.0, 0.0]
    for _ in range(PLANS):
        sampling_prob = float(np.exp(rng.uniform(np.log(0.005), np.log(0.5))))
        event = PrivacyEvent(sampling_prob, float(rng.uniform(0.7, 6)), int(rng.integers(1, 300)))
        delta = float(10 ** rng.uniform(-7, -4))
        began = time.perf_counter()
        ours.append(compute_epsilon([event], delta))
        between = time.perf_counter()
        finer.append(finer_epsilon(event, delta))
        seconds[0] += between - began
        seconds[1] += time.perf_counter() - between
    excess = np.asarray(ours) - np.asarray(finer)
    large = np.asarray(finer) > 1
    yield {
        "plans": PLANS,
        "under_reports": int((excess < -_ROUNDING).sum()),
        "max_excess": round(float((excess / finer)[large].max()), 6),
        "max_absolute_excess": round(float(excess.max()), 6),
        "largest_epsilon": round(max(ours), 2),
        "ratio_finer": round(seconds[1] / seconds[0], 1),
    }


if __name__ == "__main__":
    publish("accounting", compare())
