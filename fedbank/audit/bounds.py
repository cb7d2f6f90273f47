"""Lower bounds on epsilon from the scores of an attack, each with its confidence and what it assumes.

Every bound inverts a test: it is the largest epsilon that the scores refute at the wanted confidence. If the
mechanism keeps its claim, a bound exceeds it with probability at most 1 - confidence. mu is the parameter of
Gaussian differential privacy (Dong et al. 2019, arXiv:1905.02383): the shift between two unit normals that are as
hard to tell apart as neighbouring data sets. I scores of canaries that took part, O of those that did not.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit, log_ndtr, ndtr, ndtri

Scores = NDArray[np.float64]

MAX_EPSILON = 1000.0
"""Reported in place of anything larger: there is no protection left to measure."""

_BISECTIONS = 50


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Epsilon at ``delta`` of a mu-GDP mechanism (Dong et al. 2019, Corollary 2.13), at most ``MAX_EPSILON``."""
    if mu <= 0:
        return 0.0

    def exceeds(epsilon: float) -> bool:
        first = float(log_ndtr(-epsilon / mu + mu / 2))
        second = epsilon + float(log_ndtr(-epsilon / mu - mu / 2))
        return second < first and first + math.log1p(-math.exp(second - first)) > math.log(delta)

    return _largest(exceeds, MAX_EPSILON)


def gaussian_mu(epsilon: float, delta: float) -> float:
    """The mu whose epsilon at ``delta`` is ``epsilon``: the inverse of ``gaussian_epsilon``."""
    return _largest(lambda mu: gaussian_epsilon(mu, delta) < epsilon, 2 * math.sqrt(MAX_EPSILON))


def rate_bounds(scores_I: Scores, scores_O: Scores, threshold: float, confidence: float) -> tuple[float, float]:
    """A lower bound on the true positive rate and an upper bound on the false positive rate of score > threshold.

    Both hold together with ``confidence`` (Clopper and Pearson 1934, exact); the threshold must not have been chosen
    on these scores.
    """
    share = (1 - confidence) / 2
    hits, false = int((scores_I > threshold).sum()), int((scores_O > threshold).sum())
    return clopper_pearson_low(hits, len(scores_I), share), clopper_pearson_high(false, len(scores_O), share)


def clopper_pearson_low(successes: int, trials: int, error: float) -> float:
    """A rate that lies above the true one with probability at most ``error``."""
    return 0.0 if successes == 0 else float(stats.beta.ppf(error, successes, trials - successes + 1))


def clopper_pearson_high(successes: int, trials: int, error: float) -> float:
    """A rate that lies below the true one with probability at most ``error``."""
    return 1.0 if successes == trials else float(stats.beta.ppf(1 - error, successes + 1, trials - successes))


def epsilon_from_rates(low_tpr: float, high_fpr: float, delta: float) -> float:
    """Epsilon that an (epsilon, delta) mechanism must have for such rates (Kairouz et al. 2015, arXiv:1311.0776)."""
    directions = ((low_tpr, high_fpr), (1 - high_fpr, 1 - low_tpr))
    bounds = [math.log((good - delta) / bad) if bad > 0 else MAX_EPSILON for good, bad in directions if good > delta]
    return min(MAX_EPSILON, max([0.0, *bounds]))


def gaussian_from_rates(low_tpr: float, high_fpr: float, delta: float) -> float:
    """Epsilon from one point of the trade-off curve of a Gaussian mechanism (Nasr et al. 2023, arXiv:2302.07956).

    Nothing is assumed about the scores: what is refuted is every mu-GDP curve below the point.
    """
    if low_tpr <= 0 or high_fpr >= 1:
        return 0.0
    return gaussian_epsilon(float(ndtri(low_tpr) - ndtri(high_fpr)), delta)


def gaussian_fit(scores_I: Scores, scores_O: Scores, delta: float, confidence: float) -> float:
    """Epsilon from the distance of the two means in standard deviations.

    Exact for independent normal scores with one common variance, which is what a Gaussian mechanism gives: a
    t-interval for the difference and a chi-square interval for the variance, with half of the error each.
    """
    count_I, count_O = len(scores_I), len(scores_O)
    freedom = count_I + count_O - 2
    if freedom < 1 or min(count_I, count_O) < 1:
        return 0.0
    squares = float(((scores_I - scores_I.mean()) ** 2).sum() + ((scores_O - scores_O.mean()) ** 2).sum())
    half = (1 - confidence) / 2
    error = math.sqrt(squares / freedom * (1 / count_I + 1 / count_O))
    low_shift = float(scores_I.mean() - scores_O.mean()) - float(stats.t.ppf(1 - half, freedom)) * error
    if low_shift <= 0:
        return 0.0
    if squares == 0:
        return MAX_EPSILON
    return gaussian_epsilon(low_shift / math.sqrt(squares / float(stats.chi2.ppf(half, freedom))), delta)


def count_guesses(scores: Scores, included: NDArray[np.bool_], guesses: int) -> int:
    """How many of ``guesses`` are right: half of them say "in" of the highest scores, half "out" of the lowest."""
    order = np.argsort(scores, kind="stable")
    low, high = guesses // 2, guesses - guesses // 2
    return int((~included[order[:low]]).sum() + included[order[len(order) - high :]].sum())


def one_run(canaries: int, guesses: int, right: int, delta: float, confidence: float) -> float:
    """Epsilon from one run with ``canaries`` included by independent fair coins (Steinke et al. 2023).

    arXiv:2305.08846, Theorem 5.2 with the p-value of Corollary 5.4. Holds for every (epsilon, delta) mechanism,
    whatever the dependence between canaries; the number of guesses must be fixed beforehand.
    """

    def refuted(epsilon: float) -> bool:
        accuracy = float(expit(epsilon))
        tail = float(stats.binom.sf(right - 1, guesses, accuracy))
        steps = np.arange(1, right + 1)
        slopes = (stats.binom.sf(right - 1 - steps, guesses, accuracy) - tail) / steps
        return tail + 2 * canaries * delta * float(np.max(slopes, initial=0.0)) < 1 - confidence

    return _largest(refuted, MAX_EPSILON)


def one_run_gaussian(canaries: int, guesses: int, right: int, delta: float, confidence: float) -> float:
    """Epsilon from one run, against Gaussian curves instead of (epsilon, delta) (Mahloujifar et al. 2024).

    arXiv:2410.22235, Algorithm 3, for two choices per canary and the curve of a mu-GDP mechanism. Holds whatever the
    dependence between canaries; the number of guesses must be fixed beforehand.
    """

    def refuted(mu: float) -> bool:
        right_mass = (1 - confidence) * right / canaries
        wrong_mass = (1 - confidence) * (guesses - right) / canaries
        for correct in range(right - 1, -1, -1):
            # What is likely under "in" must be likely under "out": the blow-up function of the curve, inverted.
            next_wrong = max(wrong_mass, float(ndtr(ndtri(right_mass) - mu)))
            if next_wrong == wrong_mass:
                break  # neither can change any more
            right_mass = min(1.0, right_mass + correct / (guesses - correct) * (next_wrong - wrong_mass))
            wrong_mass = next_wrong
        return right_mass + wrong_mass > guesses / canaries

    return gaussian_epsilon(_largest(refuted, 2 * math.sqrt(MAX_EPSILON)), delta)


def _largest(holds: Callable[[float], bool], limit: float) -> float:
    """The largest value up to ``limit`` for which a property holds that smaller values share; 0.0 if none does."""
    if not holds(1e-9):
        return 0.0
    low, high = 1e-9, 1.0
    while holds(high):
        if high >= limit:
            return limit
        low, high = high, min(2 * high, limit)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
