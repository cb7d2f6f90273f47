"""What the rates of an attack say about the noise that was really added: the claim's own trade-off curve, inverted.

A plan promises more than one (epsilon, delta): its event has a whole curve of them. An attack with a higher true
positive rate than the curve allows at its false positive rate refutes the event, and every event with more noise.
"""

from dataclasses import replace

import dp_accounting
import numpy as np
from dp_accounting.pld import privacy_loss_distribution as pld
from numpy.typing import NDArray

from fedbank.audit.bounds import Scores, rate_bounds
from fedbank.privacy.accounting import PrivacyEvent, compute_epsilon

_EPSILONS = np.concatenate([np.linspace(0.0, 6.0, 41), np.geomspace(6.5, 60.0, 20)])
# Coarse, which makes delta larger and the bound smaller, never the reverse: many curves are tried.
_DISCRETISATION = 5e-3
_CANDIDATES, _PILOT_SHARE, _ROUNDING = 47, 0.2, 1e-9
_LEAST_NOISE, _MOST_NOISE, _STRIDE, _PRECISION = 0.2, 50.0, 1.2, 2e-3


def delta_curve(event: PrivacyEvent) -> NDArray[np.float64]:
    """delta of ``event`` at each of the audit's epsilons, by privacy loss distributions, never under-reported."""
    loss = pld.from_gaussian_mechanism(
        event.noise_multiplier,
        value_discretization_interval=_DISCRETISATION,
        sampling_prob=event.sampling_prob,
        neighboring_relation=dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
    ).self_compose(event.num_steps)
    return np.asarray(loss.get_delta_for_epsilon(_EPSILONS))


def refutes(low_tpr: float, high_fpr: float, curve: NDArray[np.float64]) -> bool:
    """Whether an attack with these rates is impossible under a curve of ``delta_curve``, in either direction."""
    one = low_tpr - np.exp(_EPSILONS) * high_fpr - curve
    other = 1 - high_fpr - np.exp(_EPSILONS) * (1 - low_tpr) - curve
    return bool(max(one.max(), other.max()) > _ROUNDING)


def bound_epsilon(scores_I: Scores, scores_O: Scores, event: PrivacyEvent, delta: float, confidence: float) -> float:
    """Epsilon at ``delta`` of ``event`` with the most noise that the scores refute; 0.0 if they refute none.

    The first fifth of the scores chooses the threshold, the rest is measured. Sampling and number of steps are taken
    as claimed, the noise multiplier is what is measured. Assumes independent scores and nothing about their
    distribution. Above the claim's epsilon, the claim is refuted.
    """
    pilot_I, pilot_O = int(_PILOT_SHARE * len(scores_I)), int(_PILOT_SHARE * len(scores_O))
    if min(pilot_I, pilot_O) == 0:
        return 0.0
    threshold = _choose_threshold(scores_I[:pilot_I], scores_O[:pilot_O], event)
    rates = rate_bounds(scores_I[pilot_I:], scores_O[pilot_O:], threshold, confidence)
    return _epsilon_from_rates(*rates, event, delta)


def _choose_threshold(pilot_I: Scores, pilot_O: Scores, event: PrivacyEvent) -> float:
    """The threshold at which scores of a pilot speak most clearly against ``event`` with a tenth more noise."""
    curve = delta_curve(replace(event, noise_multiplier=1.1 * event.noise_multiplier))
    candidates = np.quantile(np.concatenate([pilot_I, pilot_O]), np.linspace(0.04, 0.96, _CANDIDATES))
    tpr = np.array([(pilot_I > candidate).mean() for candidate in candidates])
    fpr = np.array([(pilot_O > candidate).mean() for candidate in candidates])
    factor = np.exp(_EPSILONS)[:, None]
    excess = tpr - factor * fpr - curve[:, None]
    # One pseudo-observation keeps the spread of rates 0 and 1 positive.
    spread = np.sqrt(_variance(tpr, len(pilot_I)) + factor**2 * _variance(fpr, len(pilot_O)))
    return float(candidates[(excess / spread).max(axis=0).argmax()])


def _epsilon_from_rates(low_tpr: float, high_fpr: float, event: PrivacyEvent, delta: float) -> float:
    """Bisection over the noise multiplier, from the claimed one outwards."""

    def refuted(noise_multiplier: float) -> bool:
        return refutes(low_tpr, high_fpr, delta_curve(replace(event, noise_multiplier=noise_multiplier)))

    above = below = event.noise_multiplier
    while not refuted(above):
        above, below = above * _STRIDE, above
        if above > _MOST_NOISE:
            return 0.0
    while refuted(below):
        above, below = below, below / _STRIDE
        if below < _LEAST_NOISE:
            break
    while above - below > _PRECISION * above:
        middle = (below + above) / 2
        below, above = (below, middle) if refuted(middle) else (middle, above)
    return compute_epsilon([replace(event, noise_multiplier=above)], delta)


def _variance(rate: NDArray[np.float64], trials: int) -> NDArray[np.float64]:
    smoothed = (rate * trials + 1) / (trials + 2)
    variance: NDArray[np.float64] = smoothed * (1 - smoothed) / trials
    return variance
