"""The bound from a plan's own trade-off curve, for sampled steps."""

import numpy as np
import pytest

from fedbank.audit.curves import bound_epsilon, delta_curve, refutes
from fedbank.audit.mechanism import log_likelihood_ratio
from fedbank.privacy.accounting import PrivacyEvent, compute_epsilon

DELTA = 1e-5
EVENT = PrivacyEvent(0.5, 0.7074, 2)


def trials(rng, count, *, noise=1.0, took_part):
    shift = (rng.random((count, 2)) < EVENT.sampling_prob) * took_part
    return log_likelihood_ratio(shift + noise * EVENT.noise_multiplier * rng.standard_normal((count, 2)), EVENT)


def bound(rng, noise, count=8000):
    present, absent = (trials(rng, count, noise=noise, took_part=part) for part in (True, False))
    return bound_epsilon(present, absent, EVENT, DELTA, 0.99)


def test_true_noise_stays_below_the_claim_and_comes_near_it():
    rng = np.random.default_rng(0)
    claim = compute_epsilon([EVENT], DELTA)
    found = [bound(rng, 1.0) for _ in range(5)]
    assert max(found) <= claim
    assert np.mean(found) >= 0.7 * claim


def test_too_little_noise_exceeds_the_claim():
    rng = np.random.default_rng(1)
    assert bound(rng, 0.8) > compute_epsilon([EVENT], DELTA)


def test_a_curve_allows_what_the_mechanism_itself_does_and_no_more():
    from scipy.special import ndtr

    event = PrivacyEvent(1.0, 1.0, 1)
    thresholds = np.linspace(-2, 3, 26)
    tpr, fpr = ndtr(1 - thresholds), ndtr(-thresholds)
    curve = delta_curve(event)
    assert not any(refutes(true, false, curve) for true, false in zip(tpr, fpr, strict=True))
    assert all(refutes(true + 0.03, false, curve) for true, false in zip(tpr, fpr, strict=True) if true < 0.97)


def test_scores_that_say_nothing_bound_nothing():
    rng = np.random.default_rng(2)
    assert bound_epsilon(rng.standard_normal(500), rng.standard_normal(500), EVENT, DELTA, 0.99) == 0.0
    assert bound_epsilon(np.ones(3), np.zeros(3), EVENT, DELTA, 0.99) == 0.0


@pytest.mark.parametrize("projection", [np.nan, np.inf])
def test_a_release_that_is_not_finite_is_the_clearest_sign(projection):
    assert log_likelihood_ratio(np.array([[projection, 0.0]]), EVENT)[0] == 1e6
