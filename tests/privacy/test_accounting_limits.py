"""Epsilon at very small deltas and in very long campaigns: never too small, close to the truth, at a bounded cost."""

import math

import mpmath
import pytest

from fedbank.errors import PrivacyError
from fedbank.privacy.accounting import LEAST_DELTA, REPLACE_ONE, Account, PrivacyEvent, account, compute_epsilon
from fedbank.privacy.budget import Budget
from fedbank.privacy.composition import MOST_CELLS, compose
from fedbank.privacy.plan import MOST_STEPS, PrivacyPlan, Sampling
from fedbank.privacy.step_loss import REMOVE, discretise
from fedbank_client.policy import _LEAST_DELTA as POLICYS_LEAST
from simulations.benchmarks.contour import contour_epsilon

SMALL = (1e-14, 1e-13, 1e-12, 1e-10, 1e-8, 1e-5, 1e-2)


def _gaussian(mu: float, delta: float) -> float:
    """Epsilon of a Gaussian release of sensitivity mu (Balle and Wang 2018, theorem 8), with 50 digits."""
    with mpmath.workdps(50):

        def excess(epsilon: mpmath.mpf) -> mpmath.mpf:
            low = mpmath.ncdf(-mu / 2 - epsilon / mu)
            return mpmath.ncdf(mu / 2 - epsilon / mu) - mpmath.exp(epsilon) * low - delta

        low, high = mpmath.mpf(0), mpmath.mpf(mu * (mu / 2 + 12))
        if excess(low) <= 0:
            return 0.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if excess(middle) > 0 else (low, middle)
        return float(high)


@pytest.mark.parametrize("delta", SMALL)
@pytest.mark.parametrize(("sigma", "steps"), [(30.0, 5000), (1.0, 1), (0.7, 12), (100.0, 200_000), (5.0, 40)])
@pytest.mark.parametrize("relation", ["add_or_remove_one", REPLACE_ONE])
def test_without_sampling_it_is_one_gaussian_release_at_any_delta(
    sigma: float, steps: int, delta: float, relation: str
) -> None:
    """30 and 5000 at 1e-14: 20.37, where the fast Fourier transform alone says 19.72."""
    true = _gaussian((2 if relation == REPLACE_ONE else 1) * math.sqrt(steps) / sigma, delta)
    epsilon = compute_epsilon([PrivacyEvent(1.0, sigma, steps)], delta, relation)
    assert true <= epsilon <= max(1.001 * true, true + 1e-3)


@pytest.mark.parametrize("delta", SMALL[:-1])
@pytest.mark.parametrize(
    ("q", "sigma", "steps"),
    [(0.1, 1.0, 100), (0.01, 0.8, 2000), (0.4, 3.0, 60), (0.02, 1.5, 20_000), (0.001, 2.0, 200_000)],
)
def test_with_sampling_it_is_what_an_integral_says_at_any_delta(
    q: float, sigma: float, steps: int, delta: float
) -> None:
    true = contour_epsilon(q, sigma, steps, delta)
    assert true - 1e-7 <= compute_epsilon([PrivacyEvent(q, sigma, steps)], delta) <= max(1.001 * true, true + 1e-3)


def test_epsilon_grows_as_delta_falls_and_with_every_step() -> None:
    deltas = [compute_epsilon([PrivacyEvent(0.03, 0.9, 700)], delta) for delta in SMALL]
    assert deltas == sorted(deltas, reverse=True) and len(set(deltas)) == len(SMALL)
    steps = [compute_epsilon([PrivacyEvent(0.03, 0.9, count)], 1e-13) for count in (1, 2, 10, 100, 1000, 10_000)]
    assert steps == sorted(steps)


@pytest.mark.parametrize("delta", [0.0, 9.9e-15, 1e-30, -1e-5, 1.0, 1.5, math.nan, math.inf])
def test_no_epsilon_is_given_for_another_delta(delta: float) -> None:
    event = PrivacyEvent(0.1, 1.0, 5)
    with pytest.raises(PrivacyError, match="Expected delta from 1e-14 to below 1"):
        compute_epsilon([event], delta)
    with pytest.raises(PrivacyError, match="Expected delta"):
        Budget(8.0, None, delta)
    with pytest.raises(PrivacyError, match="Expected delta"):
        PrivacyPlan(Sampling(0.1, 5.0, 1, 5), 1.0, 1.0, delta, 8.0)


def test_the_policys_least_delta_is_the_accountants() -> None:
    assert POLICYS_LEAST == LEAST_DELTA
    assert math.isfinite(Budget(8.0, 8.0, LEAST_DELTA).spent([]).epsilon)


@pytest.mark.parametrize(
    ("q", "sigma", "steps"),
    [(0.0005, 3.0, MOST_STEPS), (0.003, 6.0, 400_000), (0.0001, 1.5, MOST_STEPS), (0.01, 30.0, 300_000)],
)
def test_a_long_campaign_with_a_small_sampling_probability_costs_what_it_costs(
    q: float, sigma: float, steps: int
) -> None:
    true = contour_epsilon(q, sigma, steps, 1e-6)
    assert true - 1e-7 <= compute_epsilon([PrivacyEvent(q, sigma, steps)], 1e-6) <= max(1.001 * true, true + 1e-3)


def test_a_grid_that_does_not_follow_the_loss_would_say_a_quarter_too_much() -> None:
    """On a grid of 1e-3 this campaign comes out as 1.305; it costs 1.010."""
    assert account([PrivacyEvent(0.001, 2.0, 200_000)], 1e-6).interval < 1e-4
    assert account([PrivacyEvent(0.05, 1.0, 200)], 1e-6).interval == 1e-3


EXTREME = [(q, sigma, steps) for q in (1e-40, 1e-4, 0.2, 1.0) for sigma in (0.1, 0.3, 1e4) for steps in (1, MOST_STEPS)]


@pytest.mark.parametrize(("q", "sigma", "steps"), EXTREME)
def test_no_plan_needs_more_cells_than_there_are(q: float, sigma: float, steps: int) -> None:
    """Memory and time are bounded by the cells; what they do not suffice for is rounded up, not left out."""
    found = account([PrivacyEvent(q, sigma, steps)], 1e-6)
    assert isinstance(found, Account) and 0 < found.cells <= MOST_CELLS
    assert 0 <= found.epsilon < math.inf


def test_a_step_with_the_least_noise_has_a_grid_too() -> None:
    found = account([PrivacyEvent(1.0, 0.1, 1)], 1e-6, REPLACE_ONE)
    assert found.cells <= MOST_CELLS
    assert _gaussian(20, 1e-6) <= found.epsilon <= 1.001 * _gaussian(20, 1e-6)


def test_a_delta_below_what_lies_beyond_the_grid_has_no_epsilon() -> None:
    found = compose([(discretise(REMOVE, 1.0, 1.0, 1e-3), 10)], 1e-3, 1e-25)
    assert found is not None and found.epsilon == math.inf


def test_usual_plans_need_few_cells() -> None:
    for q, sigma, steps in [(0.05, 1.0, 200), (0.1, 2.0, 300), (0.128, 4.97, 100), (0.01, 0.8, 1000)]:
        assert account([PrivacyEvent(q, sigma, steps)], 1e-5).cells <= 100_000


def test_less_noise_than_anybody_uses_protects_nobody_and_breaks_nothing() -> None:
    found = account([PrivacyEvent(0.1, 1.0, 5), PrivacyEvent(0.1, 0.01, 1)], 1e-5)
    assert found.epsilon == math.inf and found.cells == 0


def test_mechanisms_of_very_different_noise_share_one_grid() -> None:
    """A million quiet steps beside one loud one: neither hides the other."""
    quiet, loud = PrivacyEvent(0.001, 8.0, 10**6), PrivacyEvent(0.5, 0.6, 3)
    one, other = (compute_epsilon([event], 1e-6) for event in (quiet, loud))
    both = compute_epsilon([quiet, loud], 1e-6)
    assert max(one, other) < both < one + other
    assert compute_epsilon([loud, quiet], 1e-6) == both
