"""Directions that tell padding, late positions or some tokens from everything else, in what an adapted layer sees.

A coordinator can make them on texts of its own: it knows the base model. A row of A with such a direction makes a
layer react at these positions only. R records, T tokens, F features.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from fedbank.adapter.lora import AdaptedModel
from fedbank.adapter.state import LoraPair, initial_state
from fedbank.audit.adversarial import LENGTH, PADDING, TOKENS
from fedbank.data.encode import EncodedUnits

_PADDED = 16
"""Positions of padding behind every record."""
_MOST_POSITIONS = 12_000
_ROUNDS, _RIDGE, _LEAST_STEP = 25, 1e-7, 1e-3


@dataclass(slots=True)
class _Seen:
    """What the adapted layers saw: (n, F) inputs by name, and of every position whether it triggers, by trigger."""

    inputs: dict[str, NDArray[np.float64]]
    triggers: dict[str, NDArray[np.bool_]]


@dataclass(slots=True)
class Separators:
    """Directions for ``model``, learnt on ``practice``; each is made once, when it is asked for.

    Called with an adapted layer and a trigger: (n_in,) with unit median on what triggers.
    """

    model: AdaptedModel
    practice: EncodedUnits
    device: torch.device
    records: int = 200
    _seen: _Seen | None = None
    _made: dict[tuple[str, str], NDArray[np.float64]] = field(default_factory=dict)

    def __call__(self, pair: LoraPair, trigger: str) -> NDArray[np.float64]:
        """The direction for the inputs of ``pair``."""
        if self._seen is None:
            self._seen = _watch(self.model, self.practice, self.records, self.device)
        key = pair.name, trigger
        if key not in self._made:
            self._made[key] = separate(self._seen.inputs[pair.name], self._seen.triggers[trigger])
        return self._made[key]


def separate(inputs_NF: NDArray[np.float64], positive_N: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(F,) d with inputs·d > 0 where ``positive_N`` and < 0 elsewhere, as far as one exists; median 1 on the positive.

    A support vector machine without intercept: Newton steps on the squared hinge loss, both classes of equal weight.
    """
    signs = np.where(positive_N, 1.0, -1.0)
    weights = np.where(positive_N, 1 / max(1, positive_N.sum()), 1 / max(1, (~positive_N).sum()))
    signed, direction = inputs_NF * signs[:, None], np.zeros(inputs_NF.shape[1])
    ridge = _RIDGE * float(weights @ np.square(inputs_NF).sum(1)) / len(direction) + np.finfo(float).tiny

    def cost(at: NDArray[np.float64]) -> float:
        return float(weights @ np.square(np.maximum(0.0, 1 - signed @ at)) + ridge * at @ at)

    for _ in range(_ROUNDS):
        rows = signed[signed @ direction < 1]
        weight = weights[signed @ direction < 1]
        gram = rows.T @ (weight[:, None] * rows) + ridge * np.eye(len(direction))
        step, now, share = np.linalg.solve(gram, rows.T @ weight) - direction, cost(direction), 1.0
        while share > _LEAST_STEP and cost(direction + share * step) >= now:
            share /= 2
        if share <= _LEAST_STEP:
            break
        direction = direction + share * step
    middle = float(np.median(np.abs(inputs_NF[positive_N] @ direction))) if positive_N.any() else 0.0
    return direction / middle if middle > 0 else direction


def _watch(model: AdaptedModel, practice: EncodedUnits, records: int, device: torch.device) -> _Seen:
    """Run some records one by one with padding behind each, the adapter silent, and keep what its layers are given."""
    kept: dict[str, list[NDArray[np.float64]]] = {pair.name: [] for pair in model.spec.pairs}

    def keep(name: str, given: torch.Tensor) -> None:
        kept[name].append(given[0].detach().double().cpu().numpy())

    before = model.read()
    model.write(initial_state(model.spec, seed=0))
    hooks = [
        layer.register_forward_pre_hook(lambda module, given, name=pair.name: keep(name, given[0]))
        for pair, layer in zip(model.spec.pairs, model.lora_layers, strict=True)
    ]
    lengths, tokens = [], []
    try:
        for record in range(min(records, practice.num_records)):
            text = practice.record(record)[: max(8, _MOST_POSITIONS // records)]
            padded = np.concatenate([text, np.zeros(_PADDED, text.dtype)]).astype(np.int64)
            with torch.no_grad():
                model.base.model(input_ids=torch.from_numpy(padded)[None].to(device), use_cache=False)
            lengths.append(len(text))
            tokens.append(padded)
    finally:
        for hook in hooks:
            hook.remove()
        model.write(before)
    return _Seen({name: np.concatenate(parts) for name, parts in kept.items()}, _triggers(lengths, tokens))


def _triggers(lengths: list[int], tokens: list[NDArray[np.int64]]) -> dict[str, NDArray[np.bool_]]:
    """Per trigger, whether each position is one: padding; beyond the median length; a token that half of them have."""
    places = [np.arange(len(row)) for row in tokens]
    padding = np.concatenate([place >= length for place, length in zip(places, lengths, strict=True)])
    late = np.concatenate(places) >= np.median(lengths)
    found, records = np.unique(
        np.concatenate([np.unique(row[:length]) for row, length in zip(tokens, lengths, strict=True)]),
        return_counts=True,
    )
    half = found[np.abs(records - len(lengths) / 2).argmin()]
    return {PADDING: padding, LENGTH: late, TOKENS: np.concatenate(tokens) == half}
