"""How much one bank may move the shared adapter, from public values and the round's updates only.

Three rules, all pure: an update that is much longer than the round's others is left out (``relative_bounds``), a bank
with far more noise than the others counts less (``noise_limited``), and no bank's share of the average is above a
public limit (``capped_weights``). Why: docs/adr/0014.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

RELATIVE_BOUND = 1.5
"""So many times as long as expected of it may an update be."""
LEAST_UPDATES = 4
"""Of fewer updates no median tells which one is the liar's: with three, one liar and one neighbour make it."""
MAX_NOISE_RATIO = 16.0
"""A bank whose public noise is more than so many times the round's median counts less: being tiny earns no reach."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An update that was admitted and did not count: SHA-256 of what was signed, its L2 norm and the bound on it."""

    digest: str
    norm: float
    bound: float

    def __str__(self) -> str:
        return f"Expected an update no longer than {self.bound:.6g} in this round, got one of {self.norm:.6g}."


def relative_bounds(norms: Mapping[str, float], noise_norms: Mapping[str, float]) -> dict[str, float]:
    """The norm above which each bank's update is left out; infinity for all below ``LEAST_UPDATES`` updates.

    ``norms`` are the L2 norms of the round's updates by bank, ``noise_norms`` what noise alone makes of them by the
    banks' public plans (absent: 0, as without privacy):

        bound(b) = 1.5 · max(median norm, noise(b))

    So with equal plans nothing but the median counts. Plans differ with a bank's size, though: the noise of 60
    customers is ten times that of 6000, and public. An honest norm is √(noise² + signal²), as good as orthogonal; the
    signal is much the same at all banks and no longer than the median norm. Where the noise is longer than that median,
    the norm is at most √2 times the noise; where it is not, √2 times the median: below 1.5 either way. A bank that
    plans with much noise makes no room for another; that it earns no reach itself is the business of its weight
    (``noise_limited``). No number that another bank declares can leave out an update that is within its own noise.

    The median of an even number is the lower of the two in the middle: where half of the banks send long updates
    together, it is still an honest norm, and the upper one, or the mean of both, would let them in. (Half that send
    short ones together lower it, but no honest bound below 1.5 times the bank's own noise.) Fewer than half can neither
    raise it above the longest honest norm, nor lower it below the shortest.
    """
    if len(norms) < LEAST_UPDATES:
        return dict.fromkeys(norms, math.inf)
    noise = {bank: noise_norms.get(bank, 0.0) for bank in norms}
    usual = _lower_median(norms.values())
    return {bank: RELATIVE_BOUND * max(usual, noise[bank]) for bank in norms}


def noise_limited(weights: Mapping[str, float], noise_norms: Mapping[str, float]) -> dict[str, float]:
    """``weights`` of those who take part, lowered where a bank's public noise is beyond 16 times the lower median.

    w'(b) = w(b) · min(1, 16 · median noise / noise(b)): such a bank moves the average by its noise no further than one
    of that many times the median noise would. It is lowered, never left out. As they are below ``LEAST_UPDATES`` banks
    and where the median is 0 (without privacy, or with Adam).
    """
    noise = {bank: noise_norms.get(bank, 0.0) for bank in weights}
    most = MAX_NOISE_RATIO * _lower_median(noise.values()) if len(weights) >= LEAST_UPDATES else 0.0
    if most == 0:
        return dict(weights)
    return {bank: weight * min(1.0, most / noise[bank]) if noise[bank] else weight for bank, weight in weights.items()}


def capped_weights(weights: Mapping[str, float], max_share: float) -> dict[str, float]:
    """``weights`` of those who take part, lowered so that none is more than ``max_share`` of their sum.

    Water-filling: w'(b) = min(w(b), t) with the largest t for which t ≤ max_share · Σ w'. The k largest weights are at
    the level t = max_share · R / (1 - k · max_share), where R is the sum of the others; k grows until the next weight
    is not above t. Capping lowers the sum and so raises the next bank's share: hence not one step but as many as it
    takes. Where nothing exceeds the share, the weights are returned as they are. Where so few take part that somebody
    must (max_share · n ≤ 1), all count alike; two banks under 0.5 do.
    """
    if max_share * len(weights) <= 1:
        return dict.fromkeys(weights, 1.0)
    ordered = sorted(weights.values(), reverse=True)
    level = math.inf
    for capped in range(len(ordered)):
        rest, left = math.fsum(ordered[capped + 1 :]), 1 - (capped + 1) * max_share
        if left <= 0 or ordered[capped] * left <= max_share * rest:
            break
        level = max_share * rest / left
    return {bank: min(weight, level) for bank, weight in weights.items()}


def _lower_median(values: Collection[float]) -> float:
    return sorted(values)[(len(values) - 1) // 2]
