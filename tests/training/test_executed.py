"""A round executes what was agreed, each step with noise on every value once; if it does not, nothing leaves."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from fedbank.adapter.lora import AdaptedModel
from fedbank.data.encode import EncodedUnits
from fedbank.errors import RunError
from fedbank.privacy.clipping import ClippedSum
from fedbank.privacy.noise import RandomStream
from fedbank.privacy.plan import PrivacyPlan, Sampling, UnprotectedPlan
from fedbank.training.local import LocalSettings, train_round

CPU = torch.device("cpu")
NOBODY = Sampling(1e-12, 4.0, 2, 1000)
"""Steps without customers take a millisecond, and are steps like any other."""
PLAN = PrivacyPlan.with_noise(NOBODY, 1.0, 1.0, 1e-5)
Change = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def model(make_model: Callable[..., AdaptedModel]) -> AdaptedModel:
    return make_model()


@pytest.fixture(scope="module")
def data(make_units: Callable[..., EncodedUnits]) -> EncodedUnits:
    return make_units([1, 3, 2])


def _round(model: AdaptedModel, data: EncodedUnits, plan: Any, steps: int, stream: RandomStream) -> Any:
    settings = LocalSettings(steps, 0.01, "sgd")
    return train_round(model, data, plan, settings, model.read(), stream=stream, device=CPU)


@pytest.mark.parametrize("steps", [*range(1, 41), 63, 64, 65, 100, 129])
def test_any_number_of_steps_is_executed_exactly(model: AdaptedModel, data: EncodedUnits, steps: int) -> None:
    """By what the noise of that many steps adds up to, drawn here once more from the same key."""
    stream, done = RandomStream.derived("executed", steps), []
    settings = LocalSettings(steps, 0.01, "sgd")
    change = train_round(model, data, PLAN, settings, model.read(), stream=stream, device=CPU, on_step=done.append)
    size = sum(parameter.numel() for parameter in model.parameters)
    assert done == list(range(1, steps + 1))
    assert stream.releases == (size,) * steps
    again, total = RandomStream.derived("executed", steps), np.zeros(size)
    for _ in range(steps):
        again.uniform(len(data.records_per_unit()))
        total += again.normal(size)
    moved = np.concatenate([tensor.ravel() for tensor in change.values()])
    assert np.abs(moved + 0.01 * total / NOBODY.expected_batch_size).max() < 1e-4


@dataclass(frozen=True)
class _Broken(PrivacyPlan):
    """A plan whose release goes wrong in one step, in one way."""

    way: str = "once too few"
    step: int = 1

    def release(self, total: ClippedSum, stream: RandomStream) -> tuple[torch.Tensor, ...]:
        if len(stream.releases) + 1 != self.step:
            return super().release(total, stream)
        without = tuple(tensor.float() / self.sampling.expected_batch_size for tensor in total.tensors)
        if self.way == "once too few":
            return without
        if self.way == "once too many":
            super().release(total, stream)
            return super().release(total, stream)
        if self.way == "not the last tensor":
            most = super().release(replace(total, steps=total.steps[:-1]), stream)
            return (*most, without[-1])
        parts = [PrivacyPlan.release(self, replace(total, steps=(tensor,)), stream) for tensor in total.steps]
        return tuple(part for (part,) in parts)


@pytest.mark.parametrize("way", ["once too few", "once too many", "not the last tensor", "each tensor by itself"])
@pytest.mark.parametrize(("steps", "step"), [(1, 1), (8, 8), (9, 9), (12, 1), (40, 33)])
def test_a_round_whose_noise_is_not_that_of_its_steps_sends_nothing(
    model: AdaptedModel, data: EncodedUnits, way: str, steps: int, step: int
) -> None:
    broken = _Broken(NOBODY, 1.0, 1.0, 1e-5, 1000.0, way=way, step=step)
    with pytest.raises(RunError, match=f"Expected {steps} releases of noise .* Nothing was sent"):
        _round(model, data, broken, steps, RandomStream.derived("broken"))


def test_noise_of_before_the_round_does_not_count(model: AdaptedModel, data: EncodedUnits) -> None:
    stream = RandomStream.derived("before")
    stream.count_release(7)
    assert _round(model, data, PLAN, 2, stream)
    with pytest.raises(RunError, match="Expected 3 releases"):
        _round(model, data, _Broken(NOBODY, 1.0, 1.0, 1e-5, 1000.0, step=5), 3, stream)


def test_a_round_without_privacy_has_no_noise(model: AdaptedModel, data: EncodedUnits) -> None:
    stream = RandomStream.derived("plain")
    _round(model, data, UnprotectedPlan(Sampling(1.0, 3.0, 2, 10)), 3, stream)
    assert stream.releases == ()
