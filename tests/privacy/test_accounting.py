"""Epsilon: check values, independent accountants on both sides, composition."""

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from fedbank.privacy.accounting import REPLACE_ONE, PrivacyEvent, compute_epsilon

ADD_OR_REMOVE = NeighboringRelation.ADD_OR_REMOVE_ONE


def _oracle(accountant: object, events: list[PrivacyEvent], delta: float) -> float:
    for event in events:
        step = PoissonSampledDpEvent(event.sampling_prob, GaussianDpEvent(event.noise_multiplier))
        accountant.compose(SelfComposedDpEvent(step, event.num_steps))
    return accountant.get_epsilon(delta)


def _random_event(seed: int) -> tuple[PrivacyEvent, float]:
    rng = np.random.default_rng(seed)
    event = PrivacyEvent(
        float(np.exp(rng.uniform(np.log(0.005), np.log(0.3)))), float(rng.uniform(0.8, 4)), int(rng.integers(1, 120))
    )
    return event, float(10 ** rng.uniform(-7, -4))


@pytest.mark.parametrize(
    ("sampling_prob", "noise_multiplier", "num_steps", "delta", "pld", "rdp"),
    [
        (0.01, 0.8, 1000, 1e-6, 3.71, 4.29),
        (0.05, 1.0, 200, 1e-5, 4.77, 5.37),
        (0.1, 2.0, 300, 1e-5, 4.18, 4.56),
        (0.001, 0.5, 2000, 1e-6, 4.66, 5.77),
    ],
)
def test_published_check_values(
    sampling_prob: float, noise_multiplier: float, num_steps: int, delta: float, pld: float, rdp: float
) -> None:
    epsilon = compute_epsilon([PrivacyEvent(sampling_prob, noise_multiplier, num_steps)], delta)
    assert epsilon == pytest.approx(pld, rel=0.01)
    assert epsilon < rdp


@pytest.mark.parametrize("seed", range(4))
def test_never_below_the_finer_accountant_and_never_above_renyi(seed: int) -> None:
    _assert_between_oracles(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4, 50))
def test_never_below_the_finer_accountant_and_never_above_renyi_at_length(seed: int) -> None:
    _assert_between_oracles(seed)


def _assert_between_oracles(seed: int) -> None:
    event, delta = _random_event(seed)
    epsilon = compute_epsilon([event], delta)
    finer = _oracle(PLDAccountant(ADD_OR_REMOVE), [event], delta)
    # A coarser grid costs at most one of its steps; that is less than 0.1 % of any epsilon of practical use.
    assert finer - 1e-6 <= epsilon <= (1.001 * finer if finer > 1 else finer + 1e-3)
    assert epsilon <= _oracle(RdpAccountant(neighboring_relation=ADD_OR_REMOVE), [event], delta)


def test_campaigns_with_different_noise_compose_as_the_oracle_composes_them() -> None:
    events = [PrivacyEvent(0.05, 1.5, 30), PrivacyEvent(0.1, 2.5, 20), PrivacyEvent(0.02, 0.9, 10)]
    finer = _oracle(PLDAccountant(ADD_OR_REMOVE), events, 1e-5)
    assert finer - 1e-6 <= compute_epsilon(events, 1e-5) <= 1.001 * finer


@pytest.mark.parametrize(("rounds", "steps"), [(1, 30), (3, 10), (30, 1)])
def test_rounds_of_steps_cost_what_the_steps_cost(rounds: int, steps: int) -> None:
    separate = [PrivacyEvent(0.05, 1.1, steps)] * rounds
    assert compute_epsilon(separate, 1e-5) == pytest.approx(
        compute_epsilon([PrivacyEvent(0.05, 1.1, 30)], 1e-5), rel=1e-3
    )


def test_four_campaigns_cost_more_than_one_and_less_than_their_sum() -> None:
    campaign = PrivacyEvent(0.0256, 0.8209, 100)
    one, four = compute_epsilon([campaign], 1e-5), compute_epsilon([campaign] * 4, 1e-5)
    assert 1.5 * one < four < 3 * one


@pytest.mark.parametrize("events", [[], [PrivacyEvent(0.5, 1.0, 0)]], ids=["nothing", "no-steps"])
def test_nothing_executed_costs_nothing(events: list[PrivacyEvent]) -> None:
    assert compute_epsilon(events, 1e-5) == 0.0


@pytest.mark.parametrize(
    "worse",
    [PrivacyEvent(0.06, 1.0, 50), PrivacyEvent(0.05, 0.95, 50), PrivacyEvent(0.05, 1.0, 55)],
    ids=["more-sampling", "less-noise", "more-steps"],
)
def test_epsilon_grows_with_everything_that_reveals_more(worse: PrivacyEvent) -> None:
    assert compute_epsilon([worse], 1e-5) > 1.01 * compute_epsilon([PrivacyEvent(0.05, 1.0, 50)], 1e-5)


def test_without_sampling_it_is_the_gaussian_mechanism() -> None:
    """Balle and Wang 2018, Theorem 8: delta of one Gaussian release at epsilon 1 with sigma 2 is 0.0524."""
    from scipy.stats import norm

    sigma, epsilon = 2.0, 1.0
    delta = norm.cdf(1 / (2 * sigma) - epsilon * sigma) - np.exp(epsilon) * norm.cdf(-1 / (2 * sigma) - epsilon * sigma)
    assert compute_epsilon([PrivacyEvent(1.0, sigma, 1)], float(delta)) == pytest.approx(epsilon, rel=2e-3)


def _hockey_stick(epsilon: float, upper: np.ndarray, lower: np.ndarray, step: float) -> float:
    return float(np.maximum(upper - np.exp(epsilon) * lower, 0).sum() * step)


@pytest.mark.parametrize(("sampling_prob", "sigma"), [(0.1, 1.0), (0.5, 0.7), (1.0, 2.0)])
def test_one_step_has_the_delta_of_the_densities_under_both_relations(sampling_prob: float, sigma: float) -> None:
    """By integrating the densities of a clipped sum with and without the unit, and with its opposite (2C apart)."""
    from scipy.stats import norm

    grid, step = np.linspace(-40 * sigma, 40 * sigma, 2_000_001, retstep=True)
    without = norm.pdf(grid, 0, sigma)
    plus, minus = ((1 - sampling_prob) * without + sampling_prob * norm.pdf(grid, c, sigma) for c in (1, -1))
    event = [PrivacyEvent(sampling_prob, sigma, 1)]
    epsilon = compute_epsilon(event, 1e-5)
    worse = max(_hockey_stick(epsilon, plus, without, step), _hockey_stick(epsilon, without, plus, step))
    assert 0.99e-5 < worse <= 1e-5
    replaced = compute_epsilon(event, 1e-5, REPLACE_ONE)
    assert 0.99e-5 < _hockey_stick(replaced, plus, minus, step) <= 1e-5
    assert replaced > epsilon


@pytest.mark.parametrize(
    ("sampling_prob", "sigma", "steps", "delta"),
    [(0.01, 0.8, 1000, 1e-6), (0.05, 1.0, 200, 1e-5), (0.1, 2.0, 300, 1e-5)],
)
def test_an_accountant_by_numerical_composition_agrees(
    sampling_prob: float, sigma: float, steps: int, delta: float
) -> None:
    """Opacus's PRV accountant (Gopi et al. 2021, arXiv:2106.02848): an independent way to the same figure."""
    from opacus.accountants import PRVAccountant

    oracle = PRVAccountant()
    oracle.history = [(sigma, sampling_prob, steps)]
    epsilon = compute_epsilon([PrivacyEvent(sampling_prob, sigma, steps)], delta)
    upper = oracle.get_epsilon(delta, eps_error=0.01)
    assert upper - 0.02 <= epsilon <= upper
