"""How much privacy a list of executed events has cost, by privacy loss distributions.

Knows the mathematics of composition only: no plan, no data, no file. The figures are pessimistic: the
distribution is discretised so that epsilon is never under-reported (Doroshenko et al. 2022, arXiv:2207.04380).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import dp_accounting
from dp_accounting.pld import privacy_loss_distribution as pld

# Coarser than the library's 1e-4 and ten times faster; epsilon comes out larger, by less than 0.1 % above 1 and by
# less than 1e-3 below (tests/privacy/test_accounting.py).
_DISCRETISATION = 1e-3


@dataclass(frozen=True, slots=True)
class PrivacyEvent:
    """``num_steps`` Gaussian releases of clipped sums over Poisson-sampled units.

    ``noise_multiplier`` is the noise's standard deviation divided by the clip norm; neighbouring data sets
    differ by adding or removing one unit.
    """

    sampling_prob: float
    noise_multiplier: float
    num_steps: int


def compute_epsilon(events: Iterable[PrivacyEvent], delta: float) -> float:
    """Epsilon at ``delta`` of the composition of ``events``; 0.0 for none."""
    total: Any = None
    for event in events:
        if event.num_steps == 0:
            continue
        part = _single_step(event.sampling_prob, event.noise_multiplier).self_compose(event.num_steps)
        total = part if total is None else total.compose(part)
    return 0.0 if total is None else float(total.get_epsilon_for_delta(delta))


def round_up(value: float, digits: int = 2) -> float:
    """``value`` to ``digits`` significant places after the point, never below it: for printed promises."""
    scale = 10.0**digits
    return math.ceil(value * scale - 1e-9) / scale


@lru_cache(maxsize=64)
def _single_step(sampling_prob: float, noise_multiplier: float) -> Any:
    return pld.from_gaussian_mechanism(
        noise_multiplier,
        sensitivity=1.0,
        value_discretization_interval=_DISCRETISATION,
        sampling_prob=sampling_prob,
        neighboring_relation=dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
    )
