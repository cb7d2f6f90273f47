"""Lower bounds: they rarely exceed the truth, and they are strong enough to catch a broken mechanism."""

import math

import numpy as np
import pytest

from fedbank.audit import bounds
from fedbank.privacy.accounting import PrivacyEvent, compute_epsilon

DELTA = 1e-5
MU = bounds.gaussian_mu(4.0, DELTA)
REPETITIONS = 200


def scores_of_one_run(rng, mu, canaries=1000):
    included = rng.random(canaries) < 0.5
    return mu * included + rng.standard_normal(canaries), included


def bounds_of_one_run(rng, mu, confidence=0.95):
    scores, included = scores_of_one_run(rng, mu)
    scores_in, scores_out = scores[included], scores[~included]
    right = bounds.count_guesses(scores, included, 100)
    rates = bounds.rate_bounds(scores_in, scores_out, mu / 2, confidence)
    return {
        "fit": bounds.gaussian_fit(scores_in, scores_out, DELTA, confidence),
        "rates": bounds.gaussian_from_rates(*rates, DELTA),
        "any": bounds.epsilon_from_rates(*rates, DELTA),
        "f-DP": bounds.one_run_gaussian(len(scores), 100, right, DELTA, confidence),
        "one run": bounds.one_run(len(scores), 100, right, DELTA, confidence),
    }


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 4.0, 30.0])
def test_gaussian_epsilon_is_that_of_the_accountant(epsilon):
    mu = bounds.gaussian_mu(epsilon, DELTA)
    assert bounds.gaussian_epsilon(mu, DELTA) == pytest.approx(epsilon, rel=1e-6)
    assert compute_epsilon([PrivacyEvent(1.0, 1 / mu, 1)], DELTA) == pytest.approx(epsilon, rel=0.005, abs=2e-3)


def test_the_one_run_bound_is_the_published_one():
    # arXiv:2305.08846, appendix D: m = 1000, 75 of 100 guesses right, delta = 1e-4, 95 %.
    assert bounds.one_run(1000, 100, 75, 1e-4, 0.95) == pytest.approx(0.673, abs=5e-4)


@pytest.mark.parametrize("rates", [(0.6, 0.2), (0.99, 0.9)])
def test_rates_bound_epsilon_in_both_directions(rates):
    tpr, fpr = rates
    expected = max(math.log((tpr - DELTA) / fpr), math.log((1 - fpr - DELTA) / (1 - tpr)))
    assert bounds.epsilon_from_rates(tpr, fpr, DELTA) == pytest.approx(expected)


def test_clopper_pearson_bounds_are_exact_where_all_or_none_succeed():
    assert bounds.clopper_pearson_high(0, 100, 0.05) == pytest.approx(1 - 0.05**0.01)
    assert bounds.clopper_pearson_low(100, 100, 0.05) == pytest.approx(0.05**0.01)
    assert bounds.clopper_pearson_low(0, 100, 0.05) == 0.0
    assert bounds.clopper_pearson_high(100, 100, 0.05) == 1.0


def test_bounds_exceed_the_truth_no_more_often_than_their_confidence_allows():
    rng = np.random.default_rng(1)
    found = [bounds_of_one_run(rng, MU) for _ in range(REPETITIONS)]
    for name in found[0]:
        alarms = sum(one[name] > 4.0 for one in found)
        # 5 % of 200 are 10; more than 19 has a probability below 0.5 %.
        assert alarms <= 19, (name, alarms)


def test_bounds_at_a_thousand_canaries_are_as_strong_as_published():
    rng = np.random.default_rng(2)
    found = [bounds_of_one_run(rng, MU) for _ in range(40)]
    mean = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
    assert mean["one run"] >= 1.02 and mean["f-DP"] >= 1.46 and mean["rates"] >= 2.65 and mean["fit"] >= 2.9


def test_halved_noise_exceeds_the_claim():
    rng = np.random.default_rng(3)
    assert all(bounds_of_one_run(rng, 2 * MU)["fit"] > 4.0 for _ in range(20))


def test_without_noise_nothing_is_left_to_measure():
    constant = np.ones(50)
    assert bounds.gaussian_fit(constant, np.zeros(50), DELTA, 0.95) == bounds.MAX_EPSILON
    assert bounds.gaussian_fit(constant, constant, DELTA, 0.95) == 0.0


def test_scores_that_say_nothing_bound_nothing():
    rng = np.random.default_rng(4)
    found = [bounds_of_one_run(rng, 0.0) for _ in range(20)]
    assert np.mean([one["fit"] for one in found]) < 0.2
    assert bounds.gaussian_fit(np.zeros(1), np.zeros(1), DELTA, 0.95) == 0.0
    assert bounds.gaussian_from_rates(0.0, 1.0, DELTA) == 0.0
    assert bounds.epsilon_from_rates(0.0, 1.0, DELTA) == 0.0
