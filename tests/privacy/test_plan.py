"""The plan: calibrated noise, public sizes, and that sampler, clipper, noise and event come from the same numbers."""

import dataclasses
import math
import re

import numpy as np
import pytest
import torch

from fedbank.errors import PrivacyError
from fedbank.privacy.accounting import REPLACE_ONE, PrivacyEvent, compute_epsilon
from fedbank.privacy.noise import RandomStream
from fedbank.privacy.plan import PrivacyPlan, Sampling, UnprotectedPlan, declared_size
from simulations.benchmarks.accounting import SIGMA_TABLE

SLOW_ROWS = {(10_000, 256, 100), (20_000, 512, 200), (50_000, 1024, 300), (100_000, 1024, 300)}


def _plan(noise_multiplier: float = 1.0, clip_norm: float = 1.0, batch: float = 8.0, steps: int = 10) -> PrivacyPlan:
    return PrivacyPlan.with_noise(Sampling(0.05, batch, 4, steps), noise_multiplier, clip_norm, 1e-5)


@pytest.mark.parametrize(
    ("size", "target", "sigma"),
    [
        pytest.param(
            size, target, sigma, id=f"N{size[0]}-B{size[1]}-eps{target}", marks=[pytest.mark.slow] * (size in SLOW_ROWS)
        )
        for size, row in SIGMA_TABLE.items()
        for target, sigma in zip((1, 3, 8), row, strict=True)
    ],
)
def test_calibration_reproduces_the_table(size: tuple[int, int, int], target: float, sigma: float) -> None:
    customers, batch, steps = size
    plan = PrivacyPlan.calibrate(target, None, Sampling.for_population(customers, batch, 4, steps), 1.0, customers)
    assert plan.noise_multiplier == pytest.approx(sigma, rel=0.01)
    assert plan.epsilon() <= target


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 15))])
def test_claimed_epsilon_holds_and_noise_is_not_wasted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    target, steps = float(rng.uniform(0.5, 6)), int(rng.integers(5, 80))
    sampling = Sampling(float(rng.uniform(0.05, 0.4)), 32.0, 4, steps)
    plan = PrivacyPlan.calibrate(target, 1e-5, sampling, 1.0, 1000)
    assert plan.epsilon() <= target
    thinner = PrivacyEvent(sampling.sampling_prob, plan.noise_multiplier * 0.997, steps)
    assert compute_epsilon([thinner], 1e-5) > target


@pytest.mark.parametrize("exact", [1419 / 1024, 2 + 787 / 512], ids=lambda value: f"sigma{value:.5f}")
def test_noise_is_rounded_up(exact: float) -> None:
    """Where the least noise is known to the last bit and has more than four decimals, four decimals must be above."""
    target = compute_epsilon([PrivacyEvent(0.2, exact, 4)], 1e-5)
    plan = PrivacyPlan.calibrate(target, 1e-5, Sampling(0.2, 32.0, 4, 4), 1.0, 1000)
    assert exact <= plan.noise_multiplier < exact + 1.01e-4
    assert plan.epsilon() <= target


def test_epsilon_is_that_of_all_steps_of_the_campaign() -> None:
    plan = _plan(steps=60)
    assert plan.epsilon() == compute_epsilon([PrivacyEvent(0.05, 1.0, 60)], 1e-5)
    assert plan.epsilon(20) == compute_epsilon([PrivacyEvent(0.05, 1.0, 20)], 1e-5) < plan.epsilon()
    calibrated = PrivacyPlan.calibrate(3, 1e-5, Sampling(0.05, 32.0, 4, 60), 1.0, 1000)
    assert compute_epsilon([calibrated.event(60)], 1e-5) <= 3 < compute_epsilon([calibrated.event(64)], 1e-5)


@pytest.mark.parametrize(
    ("customers", "declared"),
    [(1, 1), (9, 9), (10, 10), (99, 99), (100, 100), (109, 100), (119, 110), (999, 990), (1999, 1900), (20_951, 2e4)],
)
def test_declared_size(customers: int, declared: int) -> None:
    assert declared_size(customers) == declared


def test_declared_size_only_rounds_down_and_hides_all_but_two_digits() -> None:
    for customers in range(1, 30_000, 7):
        declared = declared_size(customers)
        assert declared <= customers < 1.1 * declared + 1
        assert set(str(declared)[2:]) <= {"0"}


def test_sampling_comes_from_the_declared_size() -> None:
    sampling = Sampling.for_population(1_999, 190, 4, 10)
    assert (sampling.sampling_prob, sampling.expected_batch_size) == (0.1, 190.0)
    assert Sampling.for_population(50, 64, 4, 10) == Sampling(1.0, 50.0, 4, 10)


@pytest.mark.parametrize(("customers", "delta"), [(1, 1e-5), (5_000, 1e-5), (104_000, 100_000**-1.1)])
def test_delta_shrinks_with_the_declared_size(customers: int, delta: float) -> None:
    plan = PrivacyPlan.calibrate(1, None, Sampling(0.5, 32.0, 4, 2), 1.0, customers)
    assert plan.delta == pytest.approx(delta, rel=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Sampling(0.0, 8.0, 4, 10),
        lambda: Sampling(1.1, 8.0, 4, 10),
        lambda: Sampling(math.nan, 8.0, 4, 10),
        lambda: Sampling(0.1, 0.0, 4, 10),
        lambda: Sampling(0.1, 8.0, 0, 10),
        lambda: Sampling(0.1, 8.0, 4, 0),
        lambda: Sampling.for_population(0, 8, 4, 10),
        lambda: Sampling.for_population(100, 0, 4, 10),
        lambda: _plan(noise_multiplier=0.0),
        lambda: _plan(noise_multiplier=math.inf),
        lambda: _plan(noise_multiplier=math.nan),
        lambda: _plan(clip_norm=0.0),
        lambda: _plan(clip_norm=math.inf),
        lambda: dataclasses.replace(_plan(), delta=0.0),
        lambda: dataclasses.replace(_plan(), delta=1.0),
        lambda: dataclasses.replace(_plan(), unit="record"),  # with four records per sampled unit
        lambda: dataclasses.replace(_plan(), unit="bank"),
        lambda: dataclasses.replace(_plan(), grid_steps=0),
        lambda: dataclasses.replace(_plan(), grid_steps=2**25),
        lambda: dataclasses.replace(_plan(), grid_steps=2.5),
        lambda: _plan(noise_multiplier=0.19),
        lambda: PrivacyPlan.calibrate(3, 0.02, Sampling(0.1, 8.0, 4, 10), 1.0, 100),
        lambda: dataclasses.replace(_plan(), neighbouring_relation="replace_one"),
        lambda: dataclasses.replace(_plan(), trust_mode="secure"),
        lambda: PrivacyPlan.calibrate(0, 1e-5, Sampling(0.1, 8.0, 4, 10), 1.0, 100),
        lambda: PrivacyPlan.calibrate(math.nan, 1e-5, Sampling(0.1, 8.0, 4, 10), 1.0, 100),
        lambda: PrivacyPlan.calibrate(1e-6, 1e-5, Sampling(1.0, 8.0, 4, 500), 1.0, 100),
    ],
)
def test_a_plan_that_cannot_hold_is_refused(make: object) -> None:
    with pytest.raises(PrivacyError, match="Expected"):
        make()


def test_release_has_the_noise_that_the_event_claims() -> None:
    """Both directions: two thirds of the noise fails the same check."""
    plan, zero = _plan(noise_multiplier=1.7, clip_norm=0.5, batch=16.0), torch.zeros(40_000)
    (released,) = plan.release(plan.clip([zero.new_zeros(0, 40_000)]), RandomStream.derived("release"))

    def plausible(values: torch.Tensor) -> bool:
        return abs(float(values.std()) / (plan.event(1).noise_multiplier * 0.5 / 16.0) - 1) < 0.02

    assert plausible(released)
    assert not plausible(released * 2 / 3)


@pytest.mark.parametrize("units", [0, 1, 3, 40], ids=lambda n: f"{n}-customers")
def test_divisor_is_the_public_batch_size(units: int) -> None:
    """However many customers are in the sample, and even with none: (sum + noise) / expected batch size."""
    plan = _plan(noise_multiplier=0.5, batch=8.0)
    gradients = torch.full((units, 1000), 1e-3)
    (released,) = plan.release(plan.clip([gradients]), RandomStream.derived("same"))
    (noise_only,) = plan.release(plan.clip([gradients[:0]]), RandomStream.derived("same"))
    assert float(noise_only.std()) == pytest.approx(0.5 / 8, rel=0.1)
    torch.testing.assert_close(released - noise_only, torch.full((1000,), units * 1e-3 / 8), atol=1e-6, rtol=0)


def test_release_lies_on_the_public_grid() -> None:
    plan = _plan(noise_multiplier=0.3, clip_norm=0.25, batch=4.0)
    (released,) = plan.release(plan.clip([torch.randn(5, 1000)]), RandomStream.derived("grid"))
    steps = released.double() * 4.0 / (0.25 / 2**20)
    assert torch.equal(steps, steps.round())


def test_every_public_value_is_in_the_digest() -> None:
    plan = _plan()
    changed = [
        dataclasses.replace(plan, noise_multiplier=1.1),
        dataclasses.replace(plan, clip_norm=2.0),
        dataclasses.replace(plan, delta=2e-5),
        dataclasses.replace(plan, target_epsilon=plan.target_epsilon + 1),
        dataclasses.replace(plan, grid_steps=2**19),
        PrivacyPlan.with_noise(Sampling(0.05, 8.0, 1, 10), 1.0, 1.0, 1e-5),
        PrivacyPlan.with_noise(Sampling(0.05, 8.0, 1, 10), 1.0, 1.0, 1e-5, "record"),
        dataclasses.replace(plan, sampling=Sampling(0.04, 8.0, 4, 10)),
        dataclasses.replace(plan, sampling=Sampling(0.05, 9.0, 4, 10)),
        dataclasses.replace(plan, sampling=Sampling(0.05, 8.0, 5, 10)),
        dataclasses.replace(plan, sampling=Sampling(0.05, 8.0, 4, 9)),
        UnprotectedPlan(plan.sampling),
    ]
    assert plan.digest() == _plan().digest()
    assert len({plan.digest(), *(other.digest() for other in changed)}) == 1 + len(changed)


@pytest.mark.parametrize("noise_multiplier", [0.7, 0.83, 0.95, 1.3, 2.1, 3.7])
def test_the_promise_never_claims_less_than_is_spent(noise_multiplier: float) -> None:
    plan = PrivacyPlan.with_noise(Sampling(0.05, 8.0, 4, 10), noise_multiplier, 1.0, 3.14e-6)
    promise = plan.guarantee()
    assert float(re.search(r"epsilon = ([\d.]+)", promise)[1]) >= plan.epsilon()
    assert float(re.search(r"delta = ([\d.e-]+)", promise)[1]) >= plan.delta
    two, three, record = map(float, re.findall(r"(?:is|three|stays) (\d+\.\d\d)", promise))
    assert two >= plan.epsilon(20) and three >= plan.epsilon(30)
    assert record >= compute_epsilon([plan.event(10)], plan.delta, REPLACE_ONE)


def test_without_protection_it_says_so_and_only_divides() -> None:
    plan = UnprotectedPlan(Sampling(0.05, 8.0, 4, 10))
    gradients = torch.randn(3, 5) * 100
    (released,) = plan.release(plan.clip([gradients]), RandomStream.derived("unused"))
    torch.testing.assert_close(released, gradients.sum(0) / 8)
    assert not plan.private
    assert plan.guarantee().startswith("NONE")
    assert _plan().private


def test_a_plan_that_costs_more_than_it_promises_cannot_be_made() -> None:
    plan = PrivacyPlan.calibrate(3, 1e-5, Sampling(0.1, 32.0, 4, 40), 1.0, 1000)
    for change in (
        {"noise_multiplier": plan.noise_multiplier * 0.99},
        {"target_epsilon": 2.9},
        {"target_epsilon": math.nan},
        {"delta": 1e-6},
        {"sampling": Sampling(0.11, 32.0, 4, 40)},
        {"sampling": Sampling(0.1, 32.0, 4, 42)},
    ):
        with pytest.raises(PrivacyError, match="promise"):
            dataclasses.replace(plan, **change)


def test_promises_to_a_record_to_a_customer_of_several_banks_and_against_a_coalition() -> None:
    plan = PrivacyPlan.calibrate(3, 1e-5, Sampling(0.1, 32.0, 4, 40), 1.0, 1000)
    promise = plan.guarantees()
    assert promise.customer == promise.coalition == plan.epsilon()
    own = [plan.event(40)]
    assert promise.customer_at_two_banks == compute_epsilon(own * 2, 1e-5) < 2 * plan.epsilon()
    assert promise.customer_at_three_banks == compute_epsilon(own * 3, 1e-5) < 3 * plan.epsilon()
    assert plan.epsilon() < promise.record == compute_epsilon(own, 1e-5, REPLACE_ONE)


def test_against_a_coalition_the_noise_of_one_bank_is_whole() -> None:
    """The other banks subtract what they sent: the release that is left has all the noise that the event claims."""
    plan, zero = _plan(noise_multiplier=1.0, batch=1.0), torch.zeros(0, 40_000)
    sent = [plan.release(plan.clip([zero]), RandomStream.derived("bank", n))[0] for n in range(4)]
    left = sum(sent) - sum(sent[1:])
    assert float(left.std()) == pytest.approx(plan.event(1).noise_multiplier, rel=0.02)


def test_a_plan_for_single_records_says_so_first() -> None:
    plan = PrivacyPlan.calibrate(3, 1e-5, Sampling(0.1, 32.0, 1, 40), 1.0, 1000, "record")
    promise = plan.guarantees()
    assert (promise.record, promise.customer, promise.customer_at_two_banks) == (plan.epsilon(), None, None)
    assert plan.guarantee().startswith("FOR SINGLE RECORDS ONLY")
    assert "customer with several records is protected less" in plan.guarantee()


def test_a_plan_survives_its_file() -> None:
    plan = PrivacyPlan.calibrate(3, None, Sampling(0.1, 32.0, 4, 40), 0.5, 1234)
    assert PrivacyPlan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"noise_multiplier": 1', '"noise_multiplier": 2'),
        ('"clip_norm": 0.5', '"clip_norm": 5.0'),
        ('"clip_norm": 0.5', '"clip_norm": "0.5"'),
        ('"num_steps": 40', '"num_steps": 41'),
        ('"num_steps": 40', '"num_steps": 39'),
        ('"unit": "customer"', '"unit": "record"'),
        ('"grid_steps"', '"steps_of_grid"'),
        ('"fedbank-plan/2"', '"fedbank-plan/1"'),
        ("{", "["),
        ('"digest": "', '"digest": "0'),
    ],
)
def test_a_plan_file_edited_by_hand_is_refused(old: str, new: str) -> None:
    text = PrivacyPlan.calibrate(3, None, Sampling(0.1, 32.0, 4, 40), 0.5, 1234).to_json()
    assert old in text
    with pytest.raises(PrivacyError, match="Expected"):
        PrivacyPlan.from_json(text.replace(old, new, 1))


@pytest.mark.parametrize("unit", ["customer", "record"])
def test_the_promise_is_about_training_and_says_so(unit: str) -> None:
    """Epsilon bounds what training lets out; answers, logs and caches of a server are another matter."""
    promise = PrivacyPlan.with_noise(Sampling(0.05, 8.0, 1, 10), 1.0, 1.0, 1e-5, unit).guarantee()
    assert "during the 10 training steps" in promise


def test_less_noise_than_protects_anybody_is_not_offered() -> None:
    plan = PrivacyPlan.calibrate(500, 1e-5, Sampling(0.01, 8.0, 1, 1), 1.0, 1000)
    assert plan.noise_multiplier == 0.2
    assert plan.epsilon() <= plan.target_epsilon
