"""Does this machine compute a customer's gradient from that customer alone, bit for bit? Tried before it trains.

Which kernel a matrix product takes, and in which order it adds, depends on shapes, threads and the chip. A bank
therefore tries its own: random customers alone, together, in another order, with longer and with shorter mates, under a
harmless adapter and under adapters made to tell the difference. No customer's data are read: the tokens are random.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from fedbank.adapter.lora import AdaptedModel
from fedbank.adapter.state import Tensors, initial_state
from fedbank.audit.adversarial import PADDING, Attack, make_adapter
from fedbank.audit.compositions import Records, customers
from fedbank.audit.separators import Separators
from fedbank.data.encode import EncodedUnits
from fedbank.errors import RunError
from fedbank.privacy.clipping import ClippedSum, clip_and_sum
from fedbank.privacy.noise import RandomStream
from fedbank.privacy.plan import Sampling
from fedbank.training.clipped import clipped_sum
from fedbank.training.local import LocalSettings

_ADVERSARIES = (PADDING, "cancelling", "sinks")
_LENGTHS = (16, 16, 13, 16, 11, 24, 32, 3)
"""Of the random records: some fill their width, some are padded, one is far shorter than the rest."""
_UNITS: tuple[Records, ...] = ((0,), (1,), (2,), (3, 4), (5,))
_LONGER, _SHORTER, _REPEATED = (6,), (7,), (0,)
_COMPOSITIONS: tuple[tuple[Records, ...], ...] = (
    _UNITS,
    _UNITS[::-1],
    (*_UNITS, _LONGER),
    (_SHORTER, *_UNITS, *_UNITS),
)
"""Together, in another order, with a longer mate, with a shorter one and twice as many."""
_BENIGN = 0.05
"""Standard deviation of B in the harmless adapter."""
_NOBODY = Sampling(1.0, 1.0, 1, 1)
"""Of a plan that draws no sample."""
_Digests = Counter[bytes]


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What was found. ``micro_batch`` is how many customers this machine may compute at once: as configured, or 1.

    ``compositions``: how many were compared with their customers alone; ``unequal``: in how many of them any bit of a
    gradient differed. ``seconds_alone`` and ``seconds_together``: for one customer, computed alone and in a batch.
    ``batches``: how many sizes of batches training tried by itself (``fedbank.training.unit_engine``), and how many of
    them it does not use, since they changed a bit.
    """

    compositions: int
    unequal: int
    micro_batch: int
    seconds_alone: float
    seconds_together: float
    batches: tuple[int, int] = (0, 0)

    @property
    def equal(self) -> bool:
        """Whether batches may be used as configured."""
        return self.unequal == 0

    @property
    def price(self) -> float:
        """How many times longer a customer takes alone than in a batch."""
        return self.seconds_alone / max(self.seconds_together, 1e-9)

    def sentence(self) -> str:
        """What a person should know."""
        if self.equal:
            tried, unused = self.batches
            smaller = f" {unused} of {tried} sizes of batches changed a bit and are not used." if unused else ""
            return f"Self-test: {self.compositions} compositions of customers, equal to the last bit.{smaller}"
        return (
            f"Self-test: on this machine a customer's gradient depends on who is beside them in {self.unequal} of "
            f"{self.compositions} compositions. Customers are computed one at a time instead, {self.price:.1f} times "
            f"slower ({self.seconds_alone:.3f} s a customer)."
        )


def run_self_test(
    model: AdaptedModel, settings: LocalSettings, device: torch.device, *, seconds: float = 10.0, seed: int = 0
) -> SelfTest:
    """Try ``model`` with the engine, the micro-batch and the threads that will train; its adapter stays as it was.

    After ``seconds`` no further adapter is tried, but the harmless one and one adversarial one always are.

    Raises:
        RunError: one customer, computed twice and alone, has two gradients: nothing can be promised on this machine.
    """
    pool = _random_records(model, seed)
    before, ends = model.read(), time.monotonic() + seconds
    trial = _Trial(model, pool, settings, device)
    try:
        for number, adapter in enumerate(_adapters(model, pool, device, seed)):
            if number >= 2 and time.monotonic() > ends:
                break
            model.write(adapter)
            trial.compare()
    finally:
        model.write(before)
    return SelfTest(
        trial.compositions,
        trial.unequal,
        1 if trial.unequal else settings.micro_batch,
        trial.seconds_alone / max(1, trial.units_alone),
        trial.seconds_together / max(1, trial.units_together),
        (len(model.shared.verdicts), sum(not verdict for verdict in model.shared.verdicts.values())),
    )


@dataclass(slots=True)
class _Trial:
    """Compares under the adapter that the model has, and counts."""

    model: AdaptedModel
    pool: EncodedUnits
    settings: LocalSettings
    device: torch.device
    compositions: int = 0
    unequal: int = 0
    units_alone: int = 0
    units_together: int = 0
    seconds_alone: float = 0.0
    seconds_together: float = 0.0

    def compare(self) -> None:
        """Every composition against the sum of its customers alone."""
        alone = {unit: self._alone(unit) for unit in (*_UNITS, _LONGER, _SHORTER)}
        if self._alone(_REPEATED) != alone[_REPEATED]:
            raise RunError(
                "Expected one customer's gradient to be the same when it is computed again, got two that differ: this "
                "machine adds in an order of its own, and no privacy can be promised on it. Train on the CPU "
                "(model.device=cpu), or with threads=1."
            )
        for units in _COMPOSITIONS:
            began = time.monotonic()
            found = self._gradients(units, self.settings.micro_batch)
            self.seconds_together += time.monotonic() - began
            self.units_together += len(units)
            self.compositions += 1
            self.unequal += found != sum((alone[unit] for unit in units), _Digests())

    def _alone(self, unit: Records) -> _Digests:
        began = time.monotonic()
        found = self._gradients([unit], 1)
        self.seconds_alone += time.monotonic() - began
        self.units_alone += 1
        return found

    def _gradients(self, units: Sequence[Records], micro_batch: int) -> _Digests:
        data, chosen = customers(self.pool, units)
        settings, watch = replace(self.settings, micro_batch=micro_batch), _Watch()
        clipped_sum(self.model, data, chosen, watch, settings, device=self.device)
        return watch.seen


@dataclass(slots=True)
class _Watch:
    """A ``TrainingPlan`` that keeps a digest of every unit's gradient and lets nothing out."""

    seen: _Digests = field(default_factory=Counter)
    sampling: Sampling = _NOBODY
    private: bool = False

    def clip(self, grads_UP: Sequence[Tensor]) -> ClippedSum:
        """Count every row by its bits; the sum is empty. What is not finite counts as nothing, whatever its bits."""
        flat_UP = torch.cat([grad.detach().flatten(1).float().cpu() for grad in grads_UP], dim=1)
        for row in flat_UP:
            finite = bool(torch.isfinite(row).all())
            self.seen[hashlib.sha256((row + 0.0).numpy().tobytes()).digest() if finite else b"not finite"] += 1
        return clip_and_sum([grad[:0] for grad in grads_UP], 1.0)

    def release(self, total: ClippedSum, stream: RandomStream) -> tuple[Tensor, ...]:
        """Nothing is released."""
        return total.tensors

    def digest(self) -> str:
        """Nobody agrees to it."""
        return ""

    def guarantee(self) -> str:
        """There is none."""
        return "NONE: for a self-test on random tokens only."


def _random_records(model: AdaptedModel, seed: int) -> EncodedUnits:
    """Records of ``_LENGTHS`` random tokens; the last third of each, at least one token, is the answer."""
    rng = np.random.default_rng(seed)
    starts = np.concatenate([[0], np.cumsum(_LENGTHS)]).astype(np.int64)
    tokens = rng.integers(1, model.base.config.vocab_size, starts[-1]).astype(np.int32)
    answers = np.array([length - max(1, length // 3) for length in _LENGTHS], np.int32)
    return EncodedUnits(tokens, starts, answers, np.arange(len(_LENGTHS) + 1, dtype=np.int64))


def _adapters(model: AdaptedModel, pool: EncodedUnits, device: torch.device, seed: int) -> Iterator[Tensors]:
    """A harmless adapter, then the adversarial ones."""
    start, rng = initial_state(model.spec, seed=seed), np.random.default_rng(seed)
    trained = model.spec.shapes()
    yield {
        name: rng.normal(0, _BENIGN, trained[name]).astype(np.float32) if ".lora_B." in name else tensor
        for name, tensor in start.items()
    }
    direction = Separators(model, pool, device)
    for family in _ADVERSARIES:
        yield make_adapter(Attack.usual(family), model.spec, start, direction)
