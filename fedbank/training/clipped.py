"""One step's clipped sum: the exact sum over sampled units of gradients that depend on nobody else.

What a unit adds is a function of that unit, the adapter and the public settings, bit for bit: its shape is its own
(``fedbank.training.batches``), computing it beside others was found to change nothing (``unit_engine``), and sums are
integers (``fedbank.privacy.clipping``).
"""

from collections.abc import Iterator, Sequence

import torch

from fedbank.adapter.lora import AdaptedModel
from fedbank.data.encode import EncodedUnits
from fedbank.privacy.clipping import ClippedSum
from fedbank.privacy.plan import TrainingPlan
from fedbank.training.batches import Shape, shape_of
from fedbank.training.settings import LocalSettings
from fedbank.training.unit_engine import Unit, UnitEngine, unit_engine

Chosen = Sequence[tuple[int, Unit]]
"""Sampled units, each with the numbers of its chosen records among its own, as ``Sampling.draw`` returns them."""


def clipped_sum(
    model: AdaptedModel,
    data: EncodedUnits,
    chosen: Chosen,
    plan: TrainingPlan,
    settings: LocalSettings,
    *,
    device: torch.device,
    mask_seed: int | None = None,
) -> ClippedSum:
    """The sum over ``chosen`` at the adapter that ``model`` has now: a step without its noise. It must not leave."""
    with unit_engine(model, settings.per_example, device, mask_seed) as engine:
        return sum_of_step(engine, data, chosen, plan, settings.micro_batch, 0)


def sum_of_step(
    engine: UnitEngine, data: EncodedUnits, chosen: Chosen, plan: TrainingPlan, micro_batch: int, step: int
) -> ClippedSum:
    """The same on an ``engine`` that is set up, for one ``step`` of a round. An empty sample is a zero sum."""
    total = None
    for shape, units in _by_shape(data, chosen):
        while units:
            size = engine.together(shape, min(len(units), micro_batch))
            part = plan.clip(engine.take(data, units[:size], shape, step))
            total, units = part if total is None else total.plus(part), units[size:]
    if total is None:
        return plan.clip([parameter.new_zeros(0, *parameter.shape) for parameter in engine.model.parameters])
    return total


def _by_shape(data: EncodedUnits, chosen: Chosen) -> Iterator[tuple[Shape, list[Unit]]]:
    groups: dict[Shape, list[Unit]] = {}
    for unit, records in chosen:
        own = data.unit_starts[unit] + records
        groups.setdefault(shape_of(data, own), []).append(own)
    yield from sorted(groups.items())
