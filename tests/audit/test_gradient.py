"""Canary gradients in a real training run of the tiny Qwen."""

from dataclasses import replace

import numpy as np
import pytest

from fedbank.audit.gradient import CanaryPlan, TrainingRun, audit_gradient
from fedbank.errors import PrivacyError
from fedbank.privacy.noise import RandomStream
from fedbank.privacy.plan import PrivacyPlan, Sampling

CUSTOMERS = 16


class HalfTheNoise(PrivacyPlan):
    def release(self, total, stream):
        return super().release(replace(total, sensitivity=0.5 * total.sensitivity), stream)


@pytest.fixture(scope="module")
def run():
    from fedbank.adapter.lora import AdaptedModel, LoraSettings
    from fedbank.adapter.state import initial_state
    from fedbank.data.encode import Encoder
    from fedbank.data.synthetic import SyntheticSpec, generate
    from fedbank.data.units import group_by_customer
    from fedbank.model.loading import ModelSpec, load_base_model, load_tokenizer
    from fedbank.training.local import LocalSettings

    base = load_base_model(ModelSpec("tiny"))
    model = AdaptedModel(base.model, LoraSettings(4, 8.0, ("q_proj", "v_proj"), "B", last_layers=1))
    units = group_by_customer(generate(SyntheticSpec(CUSTOMERS), seed=0))
    data = Encoder(load_tokenizer(ModelSpec("tiny")), 64).encode(units)
    start = initial_state(model.spec, seed=0)
    return TrainingRun(model, data, LocalSettings(10, 6.0, "sgd"), start, base.device)


def make_plan(sampling_prob=1.0, steps=10, kind=PrivacyPlan):
    sampling = Sampling(sampling_prob, CUSTOMERS * sampling_prob, 1, steps)
    return kind.calibrate(4.0, 1e-5, sampling, 0.2, 1000)


def audit(run, plan, canaries, seed=0):
    stream = RandomStream.derived("gradient audit", seed)
    return audit_gradient(run, plan, canaries=canaries, confidence=0.95, stream=stream)


def size(run):
    return sum(parameter.numel() for parameter in run.model.parameters)


def test_the_gaussian_bound_of_a_true_run_lies_between_six_tenths_of_the_claim_and_the_claim(run):
    finding = audit(run, make_plan(), min(1000, size(run)))
    assert 0.6 * finding.epsilon_claimed <= finding.epsilon_lower <= finding.epsilon_claimed
    assert finding.ok
    assert [bound.method for bound in finding.bounds] == [
        "GDP, Gaussian fit",
        "GDP, Clopper-Pearson",
        "f-DP in one run",
        "one run",
    ]
    assert all(bound.epsilon <= finding.epsilon_claimed for bound in finding.bounds)


def test_half_the_noise_exceeds_the_claim(run):
    finding = audit(run, make_plan(kind=HalfTheNoise), min(1000, size(run)))
    assert finding.epsilon_lower > finding.epsilon_claimed


def test_under_sampling_the_plans_own_curve_decides(run):
    finding = audit(run, make_plan(0.5), 400)
    assert finding.bounds[0].method == "trade-off curve"
    assert finding.ok


def test_a_canary_plan_changes_nothing_but_who_takes_part():
    plan = make_plan()
    watched = CanaryPlan(plan, np.arange(0), [])
    assert (watched.digest(), watched.guarantee(), watched.private) == (plan.digest(), plan.guarantee(), True)
    assert watched.sampling is plan.sampling


@pytest.mark.parametrize("canaries", [1, 10**9])
def test_more_canaries_than_parameters_are_refused(run, canaries):
    with pytest.raises(PrivacyError, match="Expected from 2 to"):
        audit(run, make_plan(), canaries)
