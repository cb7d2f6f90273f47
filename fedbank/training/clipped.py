"""The clipped sum of one step's sample: what a plan's noise is added to."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fedbank.adapter.lora import AdaptedModel
from fedbank.data.encode import EncodedUnits
from fedbank.privacy.clipping import ClippedSum
from fedbank.privacy.plan import TrainingPlan
from fedbank.training.batches import collate
from fedbank.training.dropout import DropoutMasks
from fedbank.training.engines import unit_gradients
from fedbank.training.local import LocalSettings, _checkpointing_enabled, _micro_batches
from fedbank.training.loss import record_losses


def clipped_sum(
    model: AdaptedModel,
    data: EncodedUnits,
    chosen: Sequence[tuple[int, NDArray[np.int64]]],
    plan: TrainingPlan,
    settings: LocalSettings,
    *,
    device: torch.device,
    masks: DropoutMasks | None = None,
    step: int = 0,
) -> ClippedSum:
    """The sum over the ``chosen`` units (number, its records' numbers) of their clipped gradients."""
    total = None
    with _checkpointing_enabled(model), unit_gradients(model, settings.per_example) as gradients:
        for sampled in _micro_batches(data, chosen, settings.micro_batch):
            batch = collate(data, sampled.records, sampled.weights, device)
            gradients.begin(sampled.groups)
            if masks is not None:
                masks.begin(step, sampled.records, [len(data.record(record)) for record in sampled.records])
            (record_losses(model.base, batch) * batch.weight_N).sum().backward()  # type: ignore[no-untyped-call]
            part = plan.clip(gradients.take())
            total = part if total is None else total.plus(part)
    if total is None:
        total = plan.clip([parameter.new_zeros(0, *parameter.shape) for parameter in model.parameters])
    return total
