"""One bank, one round: a fixed public number of steps on Poisson samples of its customers.

Every step is sample → per-customer gradients → clip → sum → noise → optimizer; which of these protect and how
much is the plan's business. U sampled customers, P trainable parameters.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedbank.adapter.lora import AdaptedModel
from fedbank.adapter.state import Tensors
from fedbank.data.encode import EncodedUnits
from fedbank.privacy.noise import RandomStream
from fedbank.privacy.plan import TrainingPlan
from fedbank.training.batches import collate
from fedbank.training.loss import record_losses
from fedbank.training.per_example import PerRecordGradients, per_record_gradients


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """How a bank trains within a round; public and equal for all banks.

    ``optimizer`` is ``"sgd"`` (with ``momentum``) or ``"adam"``; its state lives for one round, so a bank keeps
    nothing between rounds. ``micro_batch`` is the number of customers whose gradients are held at once: it
    cannot change the result beyond rounding.
    """

    num_steps: int
    learning_rate: float
    optimizer: str = "adam"
    momentum: float = 0.0
    micro_batch: int = 64


@dataclass(frozen=True, slots=True)
class _Sampled:
    """One micro-batch: the records to run, each with its customer's row and its weight 1/k."""

    records: list[int]
    rows: list[int]
    weights: list[float]
    num_units: int


def train_round(
    model: AdaptedModel,
    data: EncodedUnits,
    plan: TrainingPlan,
    settings: LocalSettings,
    start: Tensors,
    *,
    stream: RandomStream,
    device: torch.device,
) -> dict[str, NDArray[np.float32]]:
    """The change of the trainable tensors after ``settings.num_steps`` steps from the global adapter ``start``.

    ``stream`` supplies both the sample and the noise. The result is private under ``plan`` and may leave the bank.
    """
    model.write(start)
    optimizer = _optimizer(model.parameters, settings)
    with _checkpointing_enabled(model), per_record_gradients(model) as gradients:
        for _ in range(settings.num_steps):
            mean_P = _private_mean(model, data, plan, settings.micro_batch, gradients, stream, device)
            for parameter, gradient in zip(model.parameters, mean_P, strict=True):
                parameter.grad = gradient.to(parameter)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    end = model.read()
    return {name: end[name] - start[name] for name in model.spec.trainable_shapes()}


def _private_mean(
    model: AdaptedModel,
    data: EncodedUnits,
    plan: TrainingPlan,
    micro_batch: int,
    gradients: PerRecordGradients,
    stream: RandomStream,
    device: torch.device,
) -> tuple[Tensor, ...]:
    """One step's release. An empty sample is a zero sum: noised and used like any other."""
    total = None
    chosen = plan.sampling.draw(data.records_per_unit(), stream)
    for sampled in _micro_batches(data, chosen, micro_batch):
        batch = collate(data, sampled.records, sampled.weights, device)
        (record_losses(model.base, batch) * batch.weight_N).sum().backward()  # type: ignore[no-untyped-call]
        part = plan.clip([_per_unit(grad, sampled) for grad in gradients.take()])
        total = part if total is None else total.plus(part)
    if total is None:
        total = plan.clip([parameter.new_zeros(0, *parameter.shape) for parameter in model.parameters])
    return plan.release(total, stream)


def _micro_batches(
    data: EncodedUnits, chosen: Sequence[tuple[int, NDArray[np.int64]]], micro_batch: int
) -> Iterator[_Sampled]:
    """The sampled customers in micro-batches of whole customers, similar lengths together to save padding."""
    lengths = np.diff(data.record_starts)
    units = [data.unit_starts[unit] + records for unit, records in chosen]
    units.sort(key=lambda records: int(lengths[records].max()))
    for first in range(0, len(units), micro_batch):
        part = units[first : first + micro_batch]
        records = [int(record) for unit in part for record in unit]
        rows = [row for row, unit in enumerate(part) for _ in unit]
        weights = [1.0 / len(unit) for unit in part for _ in unit]
        yield _Sampled(records, rows, weights, len(part))


def _per_unit(grad_NP: Tensor, sampled: _Sampled) -> Tensor:
    """Sums the (already weighted) records of each customer: (N, *shape) to (U, *shape)."""
    if sampled.num_units == len(sampled.rows):
        return grad_NP
    rows = torch.tensor(sampled.rows, device=grad_NP.device)
    return torch.zeros(sampled.num_units, *grad_NP.shape[1:], device=grad_NP.device).index_add(0, rows, grad_NP)


@contextmanager
def _checkpointing_enabled(model: AdaptedModel) -> Iterator[None]:
    """transformers recomputes activations in training mode only; without checkpointing the mode stays ``eval``."""
    if not model.uses_checkpointing:
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
