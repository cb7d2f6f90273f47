"""Search for an adapter under which one customer more moves the clipped sum by more than the clip norm.

The sum over a step's customers is computed with and without one of them, in several orders and micro-batches. C is the
clip norm. Whatever the adapter, two of these sums may be at most C apart. More strictly, the customer who joins adds
what they add alone, to the last bit: nobody else's share may move.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray

from fedbank.adapter.lora import AdaptedModel
from fedbank.adapter.state import Tensors
from fedbank.audit.adversarial import FAMILIES, Attack, Direction, make_adapter
from fedbank.audit.compositions import Composition, Records, customers, draw_compositions
from fedbank.data.encode import EncodedUnits
from fedbank.privacy.plan import TrainingPlan
from fedbank.training.clipped import clipped_sum
from fedbank.training.local import LocalSettings

MICRO_BATCHES = (1, 2, 7, 64)
_FRESH = 0.4
"""Share of attacks that are drawn anew; the others change the best of a family a little."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is attacked: a bank's step, on records of ``pool``, with ``others`` customers beside the one who joins.

    ``clip_norm`` is that of ``plan``; a power of two keeps the sums' differences free of rounding.
    """

    model: AdaptedModel
    pool: EncodedUnits
    plan: TrainingPlan
    clip_norm: float
    settings: LocalSettings
    start: Tensors
    direction: Direction
    device: torch.device
    others: int = 16


@dataclass(frozen=True, slots=True)
class Measured:
    """One adapter with one composition, in clip norms.

    ``change``: the largest distance of a sum with the customer who joins from one without. ``others_moved``: how far
    the others' share moved when they joined, or by order or micro-batch alone; 0 only if nothing changed in any bit.
    """

    attack: Attack
    composition: str
    change: float
    others_moved: float

    @property
    def rank(self) -> tuple[float, float, float]:
        """What a search climbs, worse for the promise first: a change of up to 1 is allowed to everybody."""
        return max(self.change, 1.0), self.others_moved, self.change


@dataclass(frozen=True, slots=True)
class Searched:
    """A whole search. ``worst``: of every family that was tried, by its name, what changed the sum most.

    ``others_moved``: the most that the others' share moved, in clip norms, over everything that was tried.
    """

    adapters_tried: int
    compositions_tried: int
    worst: dict[str, Measured]
    others_moved: float

    @property
    def worst_change(self) -> float:
        """In clip norms, over all families."""
        return max((found.change for found in self.worst.values()), default=0.0)

    @property
    def ok(self) -> bool:
        """Whether nobody moved the sum by more than the clip norm; there is no tolerance."""
        return self.worst_change <= 1.0


def measure(target: Target, attack: Attack, composition: Composition, rng: np.random.Generator) -> Measured:
    """Write the adapter of ``attack`` into the model and compare the sums with and without who joins."""
    adapter = make_adapter(attack, target.model.spec, target.start, target.direction)
    target.model.write(adapter)
    usual, together = target.settings.micro_batch, (*composition.others, composition.joining)
    without, with_them = (
        [_sum(target, units, usual), _sum(target, _shuffled(units, rng), _other_size(rng))]
        for units in (composition.others, together)
    )
    alone = _sum(target, (composition.joining,), usual)
    change = max(_norm(more - fewer) for more, fewer in product(with_them, without)) / target.clip_norm
    moved = [more - fewer - alone for more, fewer in product(with_them, without)]
    moved.append(without[1] - without[0])
    return Measured(attack, composition.name, change, max(map(_norm, moved)) / target.clip_norm)


def search(
    target: Target,
    *,
    adapters: int,
    seconds: float,
    seed: int,
    families: Sequence[str] = FAMILIES,
    progress: Callable[[int], None] = lambda tried: None,
) -> Searched:
    """Try up to ``adapters`` adapters for up to ``seconds``, each with every kind of composition.

    Everything that is drawn comes from ``seed``: the same number of adapters means the same adapters. ``progress`` gets
    how many were tried. The model is left with the adapter that it had.
    """
    rng, ends = np.random.default_rng(seed), time.monotonic() + seconds
    before, climbed, worst = target.model.read(), dict[str, Measured](), dict[str, Measured]()
    tried, compositions, moved = 0, 0, 0.0
    try:
        while tried < adapters and (tried == 0 or time.monotonic() < ends):
            attack = _next(tried, families, climbed, rng)
            for composition in draw_compositions(target.pool, target.others, rng):
                found = measure(target, attack, composition, rng)
                compositions, moved = compositions + 1, max(moved, found.others_moved)
                worst[attack.family] = max(worst.get(attack.family, found), found, key=lambda one: one.change)
                climbed[attack.family] = max(climbed.get(attack.family, found), found, key=lambda one: one.rank)
            tried += 1
            progress(tried)
    finally:
        target.model.write(before)
    return Searched(tried, compositions, worst, moved)


def _next(tried: int, families: Sequence[str], climbed: dict[str, Measured], rng: np.random.Generator) -> Attack:
    """The families in turn; within one, a fresh attack or a neighbour of its best."""
    family = families[tried % len(families)]
    if family not in climbed:
        return Attack.usual(family)
    if rng.uniform() > _FRESH:
        return climbed[family].attack.changed(rng)
    layer, size, shape = rng.uniform(size=3)
    return Attack(family, float(layer), float(size), float(shape), int(rng.integers(2**31)))


def _sum(target: Target, units: Sequence[Records], micro_batch: int) -> NDArray[np.float64]:
    """(P,) the clipped sum over ``units``."""
    data, chosen = customers(target.pool, units)
    settings = LocalSettings(1, 1.0, micro_batch=micro_batch, per_example=target.settings.per_example)
    total = clipped_sum(target.model, data, chosen, target.plan, settings, device=target.device)
    return torch.cat([tensor.detach().double().flatten().cpu() for tensor in total.tensors]).numpy()


def _norm(difference: NDArray[np.float64]) -> float:
    """L2; infinite if a coordinate is not a number."""
    length = float(np.linalg.norm(difference))
    return length if np.isfinite(length) else float("inf")


def _other_size(rng: np.random.Generator) -> int:
    return int(rng.choice(MICRO_BATCHES))


def _shuffled(units: Sequence[Records], rng: np.random.Generator) -> list[Records]:
    return [units[number] for number in rng.permutation(len(units))]
