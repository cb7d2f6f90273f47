"""One bank, one round: a fixed public number of steps on Poisson samples of its customers.

Every step is sample → per-customer gradients → clip → sum → noise → optimizer; which of these protect and how
much is the plan's business. After the last step the round is checked: what should have moved has, nothing else did.
U sampled customers, P trainable parameters.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedbank.adapter.lora import AdaptedModel
from fedbank.adapter.state import Released, Tensors
from fedbank.data.encode import EncodedUnits
from fedbank.model.loading import checkpointing_mode
from fedbank.privacy.noise import RandomStream
from fedbank.privacy.plan import TrainingPlan
from fedbank.training.batches import collate
from fedbank.training.checks import RoundCheck, check_releases
from fedbank.training.dropout import DropoutMasks, record_dropout
from fedbank.training.engines import DIRECT, unit_gradients
from fedbank.training.loss import record_losses
from fedbank.training.per_example import RecordGroups, UnitGradients


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """How a bank trains within a round; public and equal for all banks.

    ``optimizer`` is ``"sgd"`` (with ``momentum``) or ``"adam"``; its state lives for one round, so a bank keeps
    nothing between rounds. ``micro_batch`` is the number of customers whose gradients are held at once: it
    cannot change the result beyond rounding. ``per_example`` is the engine that takes the gradients, one of
    ``fedbank.training.engines.ENGINES``: it cannot change the result either.
    """

    num_steps: int
    learning_rate: float
    optimizer: str = "adam"
    momentum: float = 0.0
    micro_batch: int = 64
    per_example: str = DIRECT


@dataclass(frozen=True, slots=True)
class _Sampled:
    """One micro-batch: the records to run, each with its weight 1/k, and the customers they belong to."""

    records: list[int]
    weights: list[float]
    groups: RecordGroups


@dataclass(frozen=True, slots=True)
class _Engine:
    """What turns records into gradients, for the length of a round."""

    gradients: UnitGradients
    masks: DropoutMasks | None
    device: torch.device


def train_round(
    model: AdaptedModel,
    data: EncodedUnits,
    plan: TrainingPlan,
    settings: LocalSettings,
    start: Tensors,
    *,
    stream: RandomStream,
    device: torch.device,
    on_step: Callable[[int], None] = lambda done: None,
) -> Released:
    """The change of the trainable tensors after ``settings.num_steps`` steps from the global adapter ``start``.

    ``stream`` supplies the sample, the noise and the dropout masks. The result is private under ``plan`` and may
    leave the bank. ``on_step`` gets the number of steps that are done, for whoever watches. ``RunError`` if the round
    trained anything else than the agreed adapter, or not that, or if not every step had its noise exactly once.
    """
    model.write(start)
    check, before = RoundCheck(model), len(stream.releases)
    optimizer = _optimizer(model.parameters, settings)
    with _engine(model, settings, stream, device) as engine:
        for step in range(settings.num_steps):
            mean_P = _private_mean(model, data, plan, settings.micro_batch, engine, step, stream)
            for parameter, gradient in zip(model.parameters, mean_P, strict=True):
                parameter.grad = gradient.to(parameter)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            on_step(step + 1)
    end = model.read()
    change = {name: end[name] - start[name] for name in model.spec.trainable_shapes()}
    check.passed(change, mean_P)
    coordinates = sum(parameter.numel() for parameter in model.parameters)
    check_releases(stream.releases[before:], plan.private, settings.num_steps, coordinates)
    return Released(change)


@contextmanager
def _engine(
    model: AdaptedModel, settings: LocalSettings, stream: RandomStream, device: torch.device
) -> Iterator[_Engine]:
    """The model set up for training, and put back afterwards."""
    masks = None
    with ExitStack() as stack:
        stack.enter_context(_checkpointing_enabled(model))
        if model.dropout:
            masks = DropoutMasks(model.dropout, int(stream.uniform(1)[0] * 2**52))
            stack.enter_context(record_dropout(model, masks))
        yield _Engine(stack.enter_context(unit_gradients(model, settings.per_example)), masks, device)


def _private_mean(
    model: AdaptedModel,
    data: EncodedUnits,
    plan: TrainingPlan,
    micro_batch: int,
    engine: _Engine,
    step: int,
    stream: RandomStream,
) -> tuple[Tensor, ...]:
    """One step's release. An empty sample is a zero sum: noised and used like any other."""
    total = None
    chosen = plan.sampling.draw(data.records_per_unit(), stream)
    for sampled in _micro_batches(data, chosen, micro_batch):
        batch = collate(data, sampled.records, sampled.weights, engine.device)
        engine.gradients.begin(sampled.groups)
        if engine.masks is not None:
            engine.masks.begin(step, sampled.records, [len(data.record(record)) for record in sampled.records])
        (record_losses(model.base, batch) * batch.weight_N).sum().backward()  # type: ignore[no-untyped-call]
        part = plan.clip(engine.gradients.take())
        total = part if total is None else total.plus(part)
    if total is None:
        total = plan.clip([parameter.new_zeros(0, *parameter.shape) for parameter in model.parameters])
    return plan.release(total, stream)


def _micro_batches(
    data: EncodedUnits, chosen: Sequence[tuple[int, NDArray[np.int64]]], micro_batch: int
) -> Iterator[_Sampled]:
    """The sampled customers in micro-batches of whole customers.

    Similar lengths are together to save padding; within a micro-batch, customers with equally many records are.
    """
    lengths = np.diff(data.record_starts)
    units = [data.unit_starts[unit] + records for unit, records in chosen]
    units.sort(key=lambda records: int(lengths[records].max()))
    for first in range(0, len(units), micro_batch):
        part = sorted(units[first : first + micro_batch], key=len)
        records = [int(record) for unit in part for record in unit]
        rows = tuple(row for row, unit in enumerate(part) for _ in unit)
        weights = [1.0 / len(unit) for unit in part for _ in unit]
        yield _Sampled(records, weights, RecordGroups(rows, len(part)))


@contextmanager
def _checkpointing_enabled(model: AdaptedModel) -> Iterator[None]:
    """transformers recomputes activations in training mode only; without checkpointing the mode stays ``eval``."""
    if checkpointing_mode(model.base) == "none":
        yield
        return
    model.base.train()
    try:
        yield
    finally:
        model.base.eval()


def _optimizer(parameters: Sequence[Tensor], settings: LocalSettings) -> torch.optim.Optimizer:
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=settings.learning_rate, momentum=settings.momentum)
    return torch.optim.Adam(parameters, lr=settings.learning_rate)
