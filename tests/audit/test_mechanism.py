"""The mechanism audit on the production path, and on mechanisms that are broken on purpose."""

import math
from dataclasses import replace

import pytest

from fedbank.audit.mechanism import Trials, audit_invalid_gradient, audit_mechanism
from fedbank.privacy.clipping import GRID_STEPS, ClippedSum
from fedbank.privacy.noise import RandomStream
from fedbank.privacy.plan import PrivacyPlan, Sampling

TRIALS = 30_000


def streams(number):
    return RandomStream.derived("audit test", number)


def make_plan(epsilon=4.0, sampling_prob=1.0, steps=1, kind=PrivacyPlan):
    return kind.calibrate(epsilon, 1e-5, Sampling(sampling_prob, 8.0, 1, steps), 0.2, 1000)


class LessNoise(PrivacyPlan):
    def release(self, total, stream):
        return super().release(replace(total, sensitivity=0.9 * total.sensitivity), stream)


class HalfTheNoise(PrivacyPlan):
    def release(self, total, stream):
        return super().release(replace(total, sensitivity=0.5 * total.sensitivity), stream)


def _unclipped(sums, clip_norm):
    """What is not finite is as large as an integer can be."""
    step = clip_norm / GRID_STEPS
    steps = tuple((tensor.double() / step).nan_to_num(2.0**61, 2.0**61).clamp(-(2.0**61), 2.0**61) for tensor in sums)
    return ClippedSum(tuple(tensor.long() for tensor in steps), step, clip_norm)


class NoClipping(PrivacyPlan):
    def clip(self, grads_UP):
        return _unclipped([grad.nan_to_num(0, 0, 0).sum(0) for grad in grads_UP], self.clip_norm)


class VoidRelease(PrivacyPlan):
    def clip(self, grads_UP):
        return _unclipped([grad.sum(0).clamp(-0.1, 0.1) for grad in grads_UP], self.clip_norm)

    def release(self, total, stream):
        voided = any(bool((tensor.abs() >= 2**60).any()) for tensor in total.steps)
        return tuple(tensor * (math.nan if voided else 1.0) for tensor in super().release(total, stream))


@pytest.mark.slow
def test_the_bound_of_the_production_path_lies_between_nine_tenths_of_the_claim_and_the_claim():
    finding = audit_mechanism(make_plan(), Trials(TRIALS, streams), 0.95)
    assert finding.ok
    assert 0.9 * finding.epsilon_claimed <= finding.epsilon_lower <= finding.epsilon_claimed
    assert 0.9 * finding.epsilon_claimed <= finding.bounds[1].epsilon <= finding.epsilon_claimed


@pytest.mark.slow
def test_nine_tenths_of_the_noise_exceed_the_claim():
    finding = audit_mechanism(make_plan(kind=LessNoise), Trials(TRIALS, streams), 0.95)
    assert not finding.ok
    assert finding.epsilon_lower > finding.epsilon_claimed


def test_a_customer_far_beyond_the_clip_norm_moves_the_sum_by_no_more_than_it():
    finding = audit_mechanism(make_plan(), Trials(2000, streams), 0.95)
    assert finding.ok and finding.epsilon_lower > 2.0


def test_a_sum_without_clipping_exceeds_the_claim():
    assert not audit_mechanism(make_plan(kind=NoClipping), Trials(2000, streams), 0.95).ok


def test_sampled_steps_stay_below_their_claim_and_come_near_it():
    finding = audit_mechanism(make_plan(8.0, 0.5, 2), Trials(4000, streams), 0.95)
    assert finding.ok and finding.epsilon_lower > 0.5 * finding.epsilon_claimed


def test_a_customer_whose_gradient_is_not_finite_leaves_no_trace():
    finding = audit_invalid_gradient(make_plan(), Trials(1000, streams), 0.95)
    assert finding.ok and finding.epsilon_lower < 1.0


def test_a_release_voided_by_one_customer_exceeds_the_claim():
    assert not audit_invalid_gradient(make_plan(kind=VoidRelease), Trials(1000, streams), 0.95).ok


def test_secure_streams_are_the_default_and_progress_is_told():
    done = []
    finding = audit_mechanism(make_plan(), Trials(2500, progress=done.append), 0.999)
    assert finding.ok and finding.trials == 2500
    assert done == [1000, 2000, 2500]


@pytest.mark.slow
def test_alarms_are_rare_where_the_claim_is_kept_and_common_at_half_the_noise():
    alarms, caught = 0, 0
    for repetition in range(10):
        trials = Trials(1500, lambda number, seed=repetition: RandomStream.derived("repeat", seed, number))
        alarms += not audit_mechanism(make_plan(), trials, 0.95).ok
        caught += not audit_mechanism(make_plan(kind=HalfTheNoise), trials, 0.95).ok
    assert alarms <= 2
    assert caught == 10
