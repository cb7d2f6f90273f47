"""The number of steps is public: no data set can make a bank stop earlier or go on longer."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fedbank.privacy.clipping import ClippedSum
from fedbank.privacy.noise import RandomStream
from fedbank.privacy.plan import PrivacyPlan, Sampling
from fedbank.training.local import LocalSettings, train_round

STEPS = 6


@dataclasses.dataclass(frozen=True)
class _CountingPlan(PrivacyPlan):
    """The production plan; it notes every release."""

    def release(self, total: ClippedSum, stream: RandomStream) -> tuple[torch.Tensor, ...]:
        RELEASES.append(float(sum(tensor.norm() for tensor in total.tensors)))
        return super().release(total, stream)


RELEASES: list[float] = []


@pytest.mark.parametrize(
    ("customers", "probability", "learning_rate"),
    [([1], 1e-9, 0.1), ([3, 1, 20], 1.0, 0.1), ([2] * 12, 0.5, 0.0001), ([1, 1], 1.0, 300.0)],
    ids=["never anybody", "everybody", "hardly learning", "diverging"],
)
def test_every_round_has_the_public_number_of_releases(
    make_model: Callable[..., Any],
    make_units: Callable[..., Any],
    customers: list[int],
    probability: float,
    learning_rate: float,
) -> None:
    RELEASES.clear()
    model = make_model()
    plan = _CountingPlan(Sampling(probability, 2.0, 3, STEPS), 1.0, 1.0, 1e-5, 1000.0)
    train_round(
        model,
        make_units(customers),
        plan,
        LocalSettings(STEPS, learning_rate, "sgd"),
        model.read(),
        stream=RandomStream.derived("steps"),
        device=torch.device("cpu"),
    )
    assert len(RELEASES) == STEPS


def test_a_bank_whose_customers_are_learned_already_trains_on(
    make_model: Callable[..., Any], make_units: Callable[..., Any]
) -> None:
    """Records whose answer is certain have no gradient; their bank must not be recognisable by a shorter round."""
    RELEASES.clear()
    model = make_model()
    with torch.no_grad():
        model.base.lm_head.weight.zero_()
    data = make_units([2, 2])
    plan = _CountingPlan(Sampling(1.0, 2.0, 3, STEPS), 1.0, 1.0, 1e-5, 1000.0)
    settings = LocalSettings(STEPS, 0.1, "sgd")
    change = train_round(
        model, data, plan, settings, model.read(), stream=RandomStream.derived("steps"), device=torch.device("cpu")
    )
    assert RELEASES == [0.0] * STEPS
    assert all(np.any(tensor) for tensor in change.values())
