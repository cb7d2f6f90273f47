"""Membership inference on real customers: who of the candidates took part in training, judged by their loss.

A loss alone tells easy customers from hard ones, not members from others: it is set against the loss under adapters
that are known to have been trained without the customer. M candidates, S shadow adapters.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedbank.audit.bounds import Scores
from fedbank.errors import ConfigError
from fedbank_simulations.audit.audience import MIN_CANDIDATES, Audience, choose, flip
from fedbank_simulations.resident import Resident
from fedbank_simulations.scenario import pool

CALIBRATED, LIRA = "loss against reference adapters", "LiRA"


@dataclass(frozen=True, slots=True, eq=False)
class Shadows:
    """Losses (S, M) under shadow adapters, and (S, M) whether each shadow was trained on each candidate."""

    losses: NDArray[np.float64]
    included: NDArray[np.bool_]


def draw_candidates(home: Resident, bank: str, count: int) -> Audience:
    """``count`` customers of ``bank``'s training data, each in or out by a coin; the others always take part."""
    train, seed = home.scenario.banks[bank].train, home.config.seed
    if not MIN_CANDIDATES <= count < train.num_units:
        raise ConfigError(
            f"Expected from {MIN_CANDIDATES} to {train.num_units - 1} candidates among the customers of {bank}, "
            f"got {count}. Set --candidates."
        )
    order = np.random.default_rng([seed, count]).permutation(train.num_units)
    candidates, others = choose(train, order[:count]), choose(train, np.sort(order[count:]))
    return Audience(bank, others, candidates, flip(seed, "members", count))


def recall_candidates(home: Resident, bank: str, count: int) -> Audience:
    """Candidates of a run that is over: its training customers are members, its held-out customers are not.

    A coin for each place says from which side the next customer comes, until ``count`` places are filled or a side is
    used up.
    """
    sides = home.scenario.banks[bank]
    members, strangers = sides.train.num_units, sides.held_out.num_units
    coins = flip(home.config.seed, "members", min(count, members + strangers))
    fits = (np.cumsum(coins) <= members) & (np.cumsum(~coins) <= strangers)
    coins = coins[: int(fits.sum())]
    if len(coins) < MIN_CANDIDATES:
        raise ConfigError(
            f"Expected at least {MIN_CANDIDATES} members and held-out customers at {bank}, got {len(coins)}. "
            "Name another bank with --bank, or raise held_out.max_records in a new run."
        )
    rng = np.random.default_rng(home.config.seed)
    inside, outside = rng.permutation(members), members + rng.permutation(strangers)
    places = np.where(coins, inside[np.maximum(np.cumsum(coins) - 1, 0)], outside[np.maximum(np.cumsum(~coins) - 1, 0)])
    others = np.sort(inside[int(coins.sum()) :])
    return Audience(bank, choose(sides.train, others), choose(pool([sides.train, sides.held_out]), places), coins)


def draw_shadows(candidates: int, shadows: int, *, seed: int) -> NDArray[np.bool_]:
    """(S, M) who is in which shadow: by a coin, and in the next one the other way round, so in half of them each."""
    if shadows != 0 and (shadows < 4 or shadows % 2):
        raise ConfigError(f"Expected an even number of shadows from 4, or 0 for none, got {shadows}.")
    halves = [flip(seed, f"shadow-{pair}", candidates) for pair in range(shadows // 2)]
    both = [side for half in halves for side in (half, ~half)]
    return np.stack(both) if both else np.zeros((0, candidates), bool)


def calibrated_scores(losses: NDArray[np.float64], reference: NDArray[np.float64]) -> Scores:
    """By how much the loss (M,) lies below the ``reference`` (M,) (Watson et al. 2022, arXiv:2111.08440)."""
    return reference - losses


def mean_without(shadows: Shadows) -> NDArray[np.float64]:
    """(M,) mean loss of each candidate under the shadows that never saw them."""
    without = ~shadows.included
    mean: NDArray[np.float64] = (shadows.losses * without).sum(axis=0) / without.sum(axis=0)
    return mean


def lira_scores(losses: NDArray[np.float64], shadows: Shadows) -> Scores:
    """Log likelihood ratio of the loss (M,) under normal laws fitted to the shadows (Carlini et al. 2022).

    arXiv:2112.03570, section VI: with few shadows, means for each candidate and one variance for all.
    """
    ratios = np.zeros(len(losses))
    for sign, side in ((1, shadows.included), (-1, ~shadows.included)):
        counts = side.sum(axis=0)
        means = (shadows.losses * side).sum(axis=0) / counts
        squares = float((((shadows.losses - means) ** 2) * side).sum())
        variance = max(squares / max(1, int((counts - 1).sum())), np.finfo(np.float64).tiny)
        # The mean of few shadows is itself uncertain: its variance adds to that of the loss.
        spread = variance * (1 + 1 / counts)
        ratios -= sign * ((losses - means) ** 2 / (2 * spread) + 0.5 * np.log(spread))
    return ratios
