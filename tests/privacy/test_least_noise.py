"""A plan with more noise than its promise needs is told from a calibrated one, by its numbers alone."""

from dataclasses import replace

import pytest

from fedbank.privacy.numbers import PlanNumbers
from fedbank.privacy.sampling import Sampling

SAMPLING = Sampling(0.05, 50.0, 1, 40)


@pytest.mark.parametrize("epsilon", [0.5, 3.0, 8.0])
def test_what_calibration_gives_has_the_least_noise(epsilon: float) -> None:
    plan = PlanNumbers.calibrate(epsilon, 1e-5, SAMPLING, 1.0, 1000)
    assert plan.has_least_noise()
    assert not replace(plan, noise_multiplier=1.01 * plan.noise_multiplier).has_least_noise()
    assert not replace(plan, noise_multiplier=1e4).has_least_noise()


def test_no_plan_has_less_than_the_least_noise_on_offer() -> None:
    """A promise so weak that the smallest noise on offer keeps it is calibrated to that noise."""
    plan = PlanNumbers.calibrate(1e4, 1e-5, Sampling(0.05, 50.0, 1, 1), 1.0, 1000)
    assert plan.noise_multiplier == 0.2 and plan.has_least_noise()
