"""How well scores tell those who took part from those who did not: ROC curve, its area, the rate at few false alarms.

I scores of canaries that took part, O of those that did not; a high score says "took part".
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fedbank.audit.bounds import Scores, clopper_pearson_high, clopper_pearson_low

_LEVEL = 0.95
_FALSE_POSITIVES = 0.01


@dataclass(frozen=True, slots=True)
class Attack:
    """Area under the ROC curve and true positive rate at 1 % false positives, with 95 % intervals (low, high)."""

    auc: float
    auc_interval: tuple[float, float]
    tpr_at_1_fpr: float
    tpr_at_1_fpr_interval: tuple[float, float]


def summarise(scores_I: Scores, scores_O: Scores) -> Attack:
    """The figures of one attack."""
    tpr, interval = _tpr(scores_I, scores_O)
    area, spread = _area(scores_I, scores_O)
    half = float(stats.norm.ppf((1 + _LEVEL) / 2)) * spread
    if half == 0:  # perfect separation has no spread of its own: the rule of three
        half = 3 / min(len(scores_I), len(scores_O))
    return Attack(area, (max(0.0, area - half), min(1.0, area + half)), tpr, interval)


def curve(scores_I: Scores, scores_O: Scores) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False and true positive rates, both from 0 to 1, of every threshold."""
    thresholds = np.unique(np.concatenate([scores_I, scores_O]))
    fpr = 1 - np.searchsorted(np.sort(scores_O), thresholds, side="right") / len(scores_O)
    tpr = 1 - np.searchsorted(np.sort(scores_I), thresholds, side="right") / len(scores_I)
    return np.concatenate([fpr[::-1], [1.0]]), np.concatenate([tpr[::-1], [1.0]])


def _area(scores_I: Scores, scores_O: Scores) -> tuple[float, float]:
    """The area (ties count half) and its standard error (DeLong et al. 1988, doi:10.2307/2531595)."""
    wins_I, wins_O = _wins(scores_I, scores_O), 1 - _wins(scores_O, scores_I)
    spread = wins_I.var(ddof=1) / len(scores_I) + wins_O.var(ddof=1) / len(scores_O)
    return float(wins_I.mean()), math.sqrt(float(spread))


def _wins(scores: Scores, others: Scores) -> NDArray[np.float64]:
    """The share of ``others`` that each score exceeds; ties count half."""
    ordered = np.sort(others)
    below, up_to = (np.searchsorted(ordered, scores, side=side) for side in ("left", "right"))
    share: NDArray[np.float64] = (below + up_to) / (2 * len(others))
    return share


def _tpr(scores_I: Scores, scores_O: Scores) -> tuple[float, tuple[float, float]]:
    """At the lowest threshold with at most 1 % of O above it; the interval is exact for that threshold."""
    allowed = math.floor(_FALSE_POSITIVES * len(scores_O))
    threshold = np.sort(scores_O)[len(scores_O) - 1 - allowed]
    hits, count = int((scores_I > threshold).sum()), len(scores_I)
    error = (1 - _LEVEL) / 2
    return hits / count, (clopper_pearson_low(hits, count, error), clopper_pearson_high(hits, count, error))
