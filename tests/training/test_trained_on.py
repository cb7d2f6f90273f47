"""Which customers a round trains on, told by their own gradients: those whose uniform says so, each once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from fedbank.adapter.lora import AdaptedModel
from fedbank.adapter.state import Tensors
from fedbank.data.encode import EncodedUnits
from fedbank.privacy.clipping import ClippedSum
from fedbank.privacy.noise import RandomStream
from fedbank.privacy.plan import Sampling, UnprotectedPlan
from fedbank.training.local import LocalSettings, train_round

MOST = 40
PROBABILITY = 0.4
RECORDS = {
    "one each": [1] * 12,
    "few first": [1, 1, 1, 2, 2, 3, 4, 7, 8, 9, 17, 33],
    "many first": [33, 17, 9, 8, 7, 4, 3, 2, 2, 1, 1, 1],
    "mixed": [2, 33, 1, 8, 1, 9, 3, 17, 1, 4, 2, 7],
}


@dataclass(frozen=True)
class _Watched(UnprotectedPlan):
    """No noise and no clipping, so that every customer's gradient can be told: the samples are those of any plan."""

    seen: list[np.ndarray] = field(default_factory=list)

    def clip(self, grads_UP: Sequence[torch.Tensor]) -> ClippedSum:
        self.seen.extend(torch.cat([grad.flatten(1) for grad in grads_UP], dim=1).double().numpy())
        return super().clip(grads_UP)


def _trained(
    model: AdaptedModel, start: Tensors, data: EncodedUnits, probability: float, stream: RandomStream, **how: Any
) -> Any:
    """The gradients of one step from ``start``, (customers, P)."""
    plan = _Watched(Sampling(probability, 5.0, MOST, 10))
    settings = LocalSettings(1, 1e-3, "sgd", **how)
    train_round(model, data, plan, settings, start, stream=stream, device=torch.device("cpu"))
    return np.array(plan.seen).reshape(-1, sum(parameter.numel() for parameter in model.parameters))


def _single(data: EncodedUnits, unit: int) -> EncodedUnits:
    """A bank with this customer only."""
    first, last = data.unit_starts[unit], data.unit_starts[unit + 1]
    tokens = [data.record(record) for record in range(first, last)]
    starts = np.concatenate([[0], np.cumsum([len(record) for record in tokens])])
    return EncodedUnits(
        np.concatenate(tokens), starts, data.answer_offsets[first:last], np.array([0, last - first], np.int64)
    )


def _who(gradients: np.ndarray, own: np.ndarray) -> list[int]:
    """The customer that each gradient belongs to."""
    apart = np.linalg.norm(gradients[:, None] - own[None], axis=2)
    assert (apart.min(1) < 1e-3 * np.linalg.norm(own, axis=1).min()).all(), "a gradient of nobody"
    return apart.argmin(1).tolist()


@pytest.mark.parametrize("bank", RECORDS)
def test_a_step_trains_on_whom_the_uniforms_choose(
    make_model: Callable[..., AdaptedModel], make_units: Callable[..., EncodedUnits], bank: str
) -> None:
    """Whatever their records, lengths and places: a customer is in if the uniform of their place is below q."""
    model, data = make_model(), make_units(RECORDS[bank], seed=4)
    start, everybody = model.read(), range(len(RECORDS[bank]))
    own = np.concatenate(
        [_trained(model, start, _single(data, u), 1.0, RandomStream.derived("own")) for u in everybody]
    )
    assert sorted(_who(_trained(model, start, data, 1.0, RandomStream.derived("all")), own)) == list(everybody)
    for number in range(10):
        uniforms = RandomStream.derived("step", number).uniform(len(everybody))
        chosen = np.flatnonzero(uniforms < PROBABILITY).tolist()
        gradients = _trained(model, start, data, PROBABILITY, RandomStream.derived("step", number), micro_batch=5)
        assert sorted(_who(gradients, own)) == chosen
