"""Gradients of whole units, each computed in a shape that is a function of that unit alone.

Units of one shape may be computed together. Whether that changes a single bit is a property of the machine, its number
of threads and its libraries: matrix products pick their algorithm by the number of rows. So the first time that a
number of units of a shape is to be computed together, as many random ones are, on a twin of the model with a random
adapter, and compared with each of them alone. Where they differ, fewer are computed together, in the end one at a time.
Random tokens and a random adapter: nothing of a customer and nothing of the coordinator's takes part.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedbank.adapter.lora import AdaptedModel
from fedbank.adapter.state import initial_state
from fedbank.data.encode import EncodedUnits
from fedbank.model.loading import checkpointing_mode
from fedbank.training.batches import Shape, collate
from fedbank.training.dropout import DropoutMasks, record_dropout
from fedbank.training.engines import unit_gradients
from fedbank.training.loss import record_losses
from fedbank.training.padding import PaddingGuard, padding_guard
from fedbank.training.per_example import RecordGroups, UnitGradients

Unit = NDArray[np.int64]
"""The numbers of one unit's records."""
_LORA_B_SIZE = 0.1
_MOST_TOKENS = 4096
"""That are computed at once, padding included; a longer record by itself. Memory tells nothing of how many came."""


@dataclass(frozen=True, slots=True)
class UnitEngine:
    """Takes gradients of ``model`` for the length of a round."""

    model: AdaptedModel
    name: str
    device: torch.device
    _gradients: UnitGradients
    _guard: PaddingGuard
    _masks: DropoutMasks | None

    def take(self, data: EncodedUnits, units: Sequence[Unit], shape: Shape, step: int) -> list[Tensor]:
        """The mean gradient over the records of each of U ``units``, which are all of ``shape``.

        One fp32 tensor (U, *shape) per parameter, in the order of ``AdaptedModel.parameters``. ``step`` is the round's
        step, which dropout masks depend on.
        """
        if len(units) == 1 and shape.records > (most := _records_at_once(shape)):
            parts = [units[0][first : first + most] for first in range(0, shape.records, most)]
            grads = [self._take(data, [part], replace(shape, records=len(part)), step) for part in parts]
            shares = [len(part) / shape.records for part in parts]
            return [_weighted_sum(tensors, shares) for tensors in zip(*grads, strict=True)]
        return self._take(data, units, shape, step)

    def _take(self, data: EncodedUnits, units: Sequence[Unit], shape: Shape, step: int) -> list[Tensor]:
        records = [int(record) for unit in units for record in unit]
        batch = collate(data, records, [1.0 / shape.records] * len(records), self.device, shape)
        rows = tuple(row for row in range(len(units)) for _ in range(shape.records))
        self._gradients.begin(RecordGroups(rows, len(units)))
        self._guard.begin(batch.padding_NT)
        if self._masks is not None:
            self._masks.begin(step, records, [len(data.record(record)) for record in records])
        (record_losses(self.model.base, batch) * batch.weight_N).sum().backward()  # type: ignore[no-untyped-call]
        self._guard.done()
        return self._gradients.take()

    def together(self, shape: Shape, wanted: int) -> int:
        """How many of ``wanted`` units of ``shape`` may be computed at once: a power of two."""
        wanted = min(wanted, max(1, _MOST_TOKENS // (shape.records * shape.width)))
        size = 1 << wanted.bit_length() - 1
        while size > 1 and not self._is_exact(shape, size):
            size //= 2
        return size

    def _is_exact(self, shape: Shape, size: int) -> bool:
        dropout, mode = self._masks is not None, checkpointing_mode(self.model.base)
        machine = self.name, str(self.device), torch.get_num_threads(), dropout, mode
        verdicts, key = self.model.shared.verdicts, (*machine, shape, size)
        with self.model.shared.lock:
            if key not in verdicts:
                verdicts[key] = _compare(self.model.shared.twin(self.model, _randomise), self, shape, size)
            return verdicts[key]


@contextmanager
def unit_engine(model: AdaptedModel, name: str, device: torch.device, mask_seed: int | None) -> Iterator[UnitEngine]:
    """The ``model`` set up for taking gradients with the engine ``name``, and put back afterwards.

    ``mask_seed`` is that of the round's dropout masks; ``None`` without dropout.
    """
    model.shared.twin(model, _randomise)  # a copy of a model that is set up would write into this one's gradients
    with ExitStack() as stack:
        stack.enter_context(_checkpointing_enabled(model))
        masks = None
        if mask_seed is not None:
            masks = DropoutMasks(model.dropout, mask_seed)
            stack.enter_context(record_dropout(model, masks))
        guard = stack.enter_context(padding_guard(model))
        yield UnitEngine(model, name, device, stack.enter_context(unit_gradients(model, name)), guard, masks)


def _records_at_once(shape: Shape) -> int:
    """Of one unit: a customer with many records must not need more memory than others, or a bank that fails tells."""
    return max(1, _MOST_TOKENS // shape.width)


def _weighted_sum(tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    total = tensors[0] * shares[0]
    for tensor, share in zip(tensors[1:], shares[1:], strict=True):
        total = total + tensor * share
    return total


def _compare(twin: AdaptedModel, engine: UnitEngine, shape: Shape, size: int) -> bool:
    """Whether ``size`` units of ``shape`` together have, to the bit, the gradients that each has alone.

    Two random units in turns, one without padding and one with as much as the shape can have; each at every place.
    """
    data, units = _random_units(shape, twin.base.config.vocab_size)
    with unit_engine(twin, engine.name, engine.device, 0 if twin.dropout else None) as own:
        alone = [own.take(data, [unit], shape, 0) for unit in units]
        for first in (0, 1):
            turns = [(place + first) % 2 for place in range(size)]
            many = own.take(data, [units[turn] for turn in turns], shape, 0)
            if not all(
                torch.equal(alone[turn][number][0], tensor_UP[place])
                for number, tensor_UP in enumerate(many)
                for place, turn in enumerate(turns)
            ):
                return False
    return True


def _random_units(shape: Shape, vocabulary: int) -> tuple[EncodedUnits, list[Unit]]:
    rng, rows, answers = np.random.default_rng(shape.width), shape.records, max(1, shape.answers // 2)
    lengths = np.repeat([shape.width, min(shape.width, answers + 1)], rows)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = rng.integers(0, vocabulary, starts[-1]).astype(np.int32)
    offsets = np.maximum(1, lengths - np.repeat([shape.answers, answers], rows)).astype(np.int32)
    data = EncodedUnits(tokens, starts, offsets, np.asarray([0, rows, 2 * rows], np.int64))
    return data, [np.arange(rows), np.arange(rows, 2 * rows)]


def _randomise(twin: AdaptedModel) -> None:
    """An adapter of which no part is zero: a product with zero rounds nothing."""
    rng, state = np.random.default_rng(0), initial_state(twin.spec, seed=0)
    twin.write({n: t if t.any() else rng.normal(0, _LORA_B_SIZE, t.shape).astype(np.float32) for n, t in state.items()})


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
