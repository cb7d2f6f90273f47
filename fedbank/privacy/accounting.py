"""How much privacy a list of executed events has cost, by privacy loss distributions.

Knows the mathematics of composition only: no plan, no data, no file. The figures are pessimistic: the
distribution is discretised so that epsilon is never under-reported (Doroshenko et al. 2022, arXiv:2207.04380).
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import dp_accounting
from dp_accounting.pld import privacy_loss_distribution as pld

# Coarser than the library's 1e-4 and ten times faster; epsilon comes out larger, by less than 0.1 % above 1 and by
# less than 1e-3 below (tests/privacy/test_accounting.py).
_DISCRETISATION = 1e-3


ADD_OR_REMOVE_ONE, REPLACE_ONE = "add_or_remove_one", "replace_one"
"""What neighbouring data sets differ in: one unit that is there or not, or one unit with other contents."""


@dataclass(frozen=True, slots=True)
class PrivacyEvent:
    """``num_steps`` Gaussian releases of clipped sums over Poisson-sampled units.

    ``noise_multiplier`` is the noise's standard deviation divided by the clip norm, which is the sensitivity to
    adding or removing one unit.
    """

    sampling_prob: float
    noise_multiplier: float
    num_steps: int


def compute_epsilon(events: Iterable[PrivacyEvent], delta: float, relation: str = ADD_OR_REMOVE_ONE) -> float:
    """Epsilon at ``delta`` of the composition of ``events`` under ``relation``; 0.0 for none.

    Events that differ in their steps only are one event; the order of the rest changes nothing but the rounding.
    """
    steps: Counter[tuple[float, float]] = Counter()
    for event in events:
        steps[event.sampling_prob, event.noise_multiplier] += event.num_steps
    return _epsilon(tuple(sorted((*kind, count) for kind, count in steps.items() if count)), delta, relation)


@lru_cache(maxsize=1024)
def _epsilon(kinds: tuple[tuple[float, float, int], ...], delta: float, relation: str) -> float:
    total: Any = None
    for sampling_prob, noise_multiplier, num_steps in kinds:
        part = _single_step(sampling_prob, noise_multiplier, relation).self_compose(num_steps)
        total = part if total is None else total.compose(part)
    return 0.0 if total is None else float(total.get_epsilon_for_delta(delta))


def round_up(value: float, digits: int = 2) -> float:
    """``value`` to ``digits`` significant places after the point, never below it: for printed promises."""
    scale = 10.0**digits
    return math.ceil(value * scale - 1e-9) / scale


@lru_cache(maxsize=64)
def _single_step(sampling_prob: float, noise_multiplier: float, relation: str) -> Any:
    return pld.from_gaussian_mechanism(
        noise_multiplier,
        sensitivity=1.0,
        value_discretization_interval=_DISCRETISATION,
        sampling_prob=sampling_prob,
        neighboring_relation=dp_accounting.NeighboringRelation[relation.upper()],
    )
