"""Adapters that a liar could hand to a bank: finite numbers, made to let one customer move what others contribute.

Every adapter here is finite, so a bank's parser takes it. What differs is what it does inside the model: overflow at
chosen positions, cancel rows to rounding, saturate attention. A row of A that reacts to padding needs a direction that
tells padding from text (``fedbank.audit.separators``).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedbank.adapter.state import AdapterSpec, LoraPair, Tensors

Direction = Callable[[LoraPair, str], NDArray[np.float64]]
"""(n_in,) for an adapted layer and a trigger: positive on what triggers, negative on all else."""
PADDING, LENGTH, TOKENS = "padding", "length", "tokens"
TRIGGERS = (PADDING, LENGTH, TOKENS)
_MOST = float(np.finfo(np.float32).max)
_LEAST = float(np.finfo(np.float32).smallest_subnormal)
_COMMON = 0.25
"""Chance of an attack to be on all adapted layers at once."""


@dataclass(frozen=True, slots=True)
class Attack:
    """One adapter of a family, as three knobs from 0 to 1 and a seed: small enough to print and to change a little.

    ``layer``: which adapted layer, from the first to the last. ``size``: how large the values are, on a log scale whose
    range is the family's own. ``shape``: the family's second knob. ``seed``: of everything that is drawn.
    """

    family: str
    layer: float
    size: float
    shape: float
    seed: int

    @classmethod
    def usual(cls, family: str) -> "Attack":
        """Where a search of ``family`` begins: knobs that broke a real implementation."""
        return cls(family, *_USUAL[family], seed=0)

    def changed(self, rng: np.random.Generator, spread: float = 0.15) -> "Attack":
        """A neighbour: every knob moved a little."""
        knobs = np.clip(rng.normal((self.layer, self.size, self.shape), spread), 0, 1)
        return replace(self, layer=float(knobs[0]), size=float(knobs[1]), shape=float(knobs[2]))


@dataclass(slots=True)
class _Canvas:
    """The adapter that is being made, in fp64; every array is a fresh copy."""

    spec: AdapterSpec
    tensors: dict[str, NDArray[np.float64]]
    rng: np.random.Generator

    def pairs(self, attack: Attack, modules: Sequence[str]) -> list[LoraPair]:
        """The attacked layer's pairs on ``modules``; on all modules of the layer if it has none of these."""
        layers = self.spec.layers()
        chosen = layers[min(int(attack.layer * len(layers)), len(layers) - 1)]
        inside = [pair for pair in self.spec.pairs if f".{chosen}." in pair.name]
        return [pair for pair in inside if pair.name.split(".")[-1] in modules] or inside

    def finished(self) -> dict[str, NDArray[np.float32]]:
        """fp32, and finite whatever was asked for."""
        return {
            name: np.clip(np.nan_to_num(tensor, nan=0.0), -_MOST, _MOST).astype(np.float32)
            for name, tensor in self.tensors.items()
        }


def make_adapter(
    attack: Attack, spec: AdapterSpec, start: Tensors, direction: Direction
) -> dict[str, NDArray[np.float32]]:
    """The adapter of ``attack``: ``start`` with some tensors replaced, fp32, all finite.

    ``direction`` is asked for by the families of ``TRIGGERS`` only. ``KeyError`` for an unknown family.
    """
    canvas = _Canvas(
        spec, {name: t.astype(np.float64) for name, t in start.items()}, np.random.default_rng(attack.seed)
    )
    if attack.family in TRIGGERS:
        _trigger(canvas, attack, direction)
    else:
        _PLAIN[attack.family](canvas, attack)
    return canvas.finished()


def _trigger(canvas: _Canvas, attack: Attack, direction: Direction) -> None:
    """Gate and up projection overflow together where the trigger says so, and nowhere else: 0 · ∞ follows."""
    for pair in canvas.pairs(attack, ("gate_proj", "up_proj")):
        canvas.tensors[pair.a_name][0] = direction(pair, attack.family) * 10 ** (2 * attack.shape - 1)
        canvas.tensors[pair.b_name][0, 0] = 10 ** (18 + 14 * attack.size) / canvas.spec.scale


def _cancelling(canvas: _Canvas, attack: Attack) -> None:
    """K·(ax) − K/q·(q·ax): nothing but K times the rounding is left."""
    ratio, large = np.float32(1 + 8 * attack.shape), 10 ** (2 + 6 * attack.size)
    for pair in canvas.pairs(attack, ("up_proj", "v_proj")):
        a, b = canvas.tensors[pair.a_name], canvas.tensors[pair.b_name]
        for row in range(0, canvas.spec.rank - 1, 2):
            a[row + 1] = a[row].astype(np.float32) * ratio
            weights = large * canvas.rng.normal(0, 1, len(b))
            b[:, row], b[:, row + 1] = weights, -weights / ratio


def _exploding(canvas: _Canvas, attack: Attack) -> None:
    """Everything large: gradients whose norm overflows, for some customers or for all."""
    everywhere = canvas.rng.uniform() < _COMMON
    for pair in canvas.spec.pairs if everywhere else canvas.pairs(attack, ()):
        b = canvas.tensors[pair.b_name]
        canvas.tensors[pair.b_name] = canvas.rng.normal(0, 10 ** (30 * attack.size), b.shape)
        canvas.tensors[pair.a_name] *= 10 ** (10 * attack.shape)


def _sinks(canvas: _Canvas, attack: Attack) -> None:
    """Queries and keys so large that softmax saturates, or meets infinities of both signs."""
    for pair in canvas.pairs(attack, ("q_proj", "k_proj")):
        b = canvas.tensors[pair.b_name]
        signs = np.where(canvas.rng.uniform(size=b.shape[0]) < attack.shape, 1.0, -1.0)
        b[:, 0] = signs * 10 ** (40 * attack.size) / canvas.spec.scale


def _extremes(canvas: _Canvas, attack: Attack) -> None:
    """Entries at both ends of fp32: its largest numbers and its denormals, among ordinary ones."""
    large = min(_MOST, 10 ** (38.6 * attack.size))
    values = np.array([large, -large, _LEAST, -_LEAST, 1e-39, 0.0])
    for pair in canvas.pairs(attack, ()):
        for name in (pair.a_name, pair.b_name):
            tensor = canvas.tensors[name]
            where = canvas.rng.uniform(size=tensor.shape) < 10 ** (-3 * (1 - attack.shape)) / 2
            canvas.tensors[name] = np.where(where, canvas.rng.choice(values, tensor.shape), tensor)


_PLAIN: dict[str, Callable[[_Canvas, Attack], None]] = {
    "cancelling": _cancelling,
    "exploding": _exploding,
    "sinks": _sinks,
    "extremes": _extremes,
}
_USUAL = {
    PADDING: (0.0, 0.2, 0.5),
    LENGTH: (0.0, 0.2, 0.5),
    TOKENS: (0.9, 0.08, 0.5),
    "cancelling": (0.0, 0.8, 0.25),
    "exploding": (0.0, 0.05, 0.0),
    "sinks": (0.0, 0.5, 0.5),
    "extremes": (0.9, 0.2, 0.0),
}
"""Layer, size and shape of each family."""
FAMILIES = (*TRIGGERS, *_PLAIN)
"""Every kind of adapter that is tried."""
