"""Continuous batching on one model: sequences join and leave between two steps, and share each step's forward pass.

Rows are padded on the left to the longest; what is padded is masked, so that a row's logits depend on its own tokens
only, up to the rounding of sums in another order. Knows neither requests nor text.

transformers' own continuous batching (``transformers.generation.continuous_batching``, 5.23) also runs on a CPU. It is
not used: on one core it decodes the tiny model at two thirds of this speed, alone and with eight at once, it has no
seed per request, and it writes token ids of a refused request to its log.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from fedbank.errors import ModelError

_SEEDS = (1 << 63) - 1
_COLDEST = 1e-3
"""One sequence's odd seed or temperature must not end the step of all: torch refuses what is beyond these."""


@dataclass(frozen=True, slots=True)
class Start:
    """A sequence to begin: its ``tokens``, and how the next ones are drawn (``temperature`` 0: the likeliest)."""

    key: str
    tokens: Sequence[int]
    temperature: float = 0.0
    seed: int = 0


@dataclass(slots=True)
class _Row:
    key: str
    length: int
    last: int
    temperature: float
    generator: torch.Generator


class Batch:
    """The sequences that are being continued on ``model``. ``prefill_tokens``: the most, padded, of one prefill."""

    def __init__(self, model: Any, prefill_tokens: int = 4096) -> None:
        kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"}:
            raise ModelError(
                f"Expected a model with full attention in every layer, got {', '.join(sorted(kinds))}. "
                "Serve it with an external engine."
            )
        self._model, self._prefill_tokens = model, prefill_tokens
        self._rows: list[_Row] = []
        self._cache = DynamicCache()
        """Per layer keys and values, (rows, heads, longest, head size) each."""

    @property
    def keys(self) -> list[str]:
        """Who is in it."""
        return [row.key for row in self._rows]

    @torch.inference_mode()
    def join(self, starts: Sequence[Start]) -> dict[str, int]:
        """Begin sequences; the first token of each."""
        first: dict[str, int] = {}
        for group in _groups(starts, self._prefill_tokens):
            first |= self._prefill(group)
        return first

    @torch.inference_mode()
    def step(self) -> dict[str, int]:
        """One more token for everybody."""
        if not self._rows:
            return {}
        longest = self._longest()
        mask = self._mask(longest + 1)
        logits = self._forward(torch.tensor([[row.last] for row in self._rows]), mask, self._cache)
        for row, drawn in zip(self._rows, _draw(logits, self._rows), strict=True):
            row.last = drawn
            row.length += 1
        return {row.key: row.last for row in self._rows}

    def leave(self, keys: Sequence[str]) -> None:
        """Forget these sequences; their memory is free at once."""
        gone = set(keys)
        kept = [number for number, row in enumerate(self._rows) if row.key not in gone]
        if len(kept) == len(self._rows):
            return
        longest = self._longest()
        self._rows = [self._rows[number] for number in kept]
        if not kept:
            self._cache = DynamicCache()
            return
        padding = longest - self._longest()
        chosen = torch.tensor(kept, device=self._model.device)
        for layer in self._cache.layers:
            layer.keys, layer.values = layer.keys[chosen, :, padding:], layer.values[chosen, :, padding:]

    def _longest(self) -> int:
        """Cached tokens of the longest row: its last token is not in the cache yet."""
        return max(row.length for row in self._rows)

    def _mask(self, width: int) -> Tensor:
        """1 where a token is, 0 where padding is; the cached tokens and one more."""
        first = torch.tensor([[width - 1 - row.length] for row in self._rows])
        return (torch.arange(width)[None, :] >= first).long()

    def _prefill(self, starts: Sequence[Start]) -> dict[str, int]:
        width = max(len(one.tokens) for one in starts)
        tokens, mask = torch.zeros((len(starts), width), dtype=torch.long), torch.zeros((len(starts), width)).long()
        for number, one in enumerate(starts):
            tokens[number, width - len(one.tokens) :] = torch.tensor(one.tokens)
            mask[number, width - len(one.tokens) :] = 1
        cache = DynamicCache()
        logits = self._forward(tokens, mask, cache)
        rows = [
            _Row(one.key, len(one.tokens), 0, one.temperature, torch.Generator().manual_seed(one.seed & _SEEDS))
            for one in starts
        ]
        for row, drawn in zip(rows, _draw(logits, rows), strict=True):
            row.last = drawn
        if self._rows:
            _append(self._cache, cache)
        else:
            self._cache = cache
        self._rows += rows
        return {row.key: row.last for row in rows}

    def _forward(self, tokens: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        """Logits of the last position, float32 on the CPU; ``cache`` grows. ``mask``: of what it holds and the new."""
        device = self._model.device
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        found = self._model(
            input_ids=tokens.to(device),
            attention_mask=mask.to(device),
            position_ids=positions.to(device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = found.logits[:, -1].float().cpu()
        return logits


def _groups(starts: Sequence[Start], most: int) -> list[list[Start]]:
    """Of similar lengths, so that little is padded; ``most`` tokens each, or one sequence."""
    groups: list[list[Start]] = []
    for one in sorted(starts, key=lambda one: -len(one.tokens)):
        if groups and (len(groups[-1]) + 1) * len(groups[-1][0].tokens) <= most:
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def _append(cache: DynamicCache, more: DynamicCache) -> None:
    """The rows of ``more`` behind those of ``cache``, the shorter padded on the left with zeros."""
    width = max(cache.get_seq_length(), more.get_seq_length())

    def both(ours: Tensor, theirs: Tensor) -> Tensor:
        return torch.cat([torch.nn.functional.pad(one, (0, 0, width - one.shape[2], 0)) for one in (ours, theirs)])

    for layer, joining in zip(cache.layers, more.layers, strict=True):
        layer.keys, layer.values = both(layer.keys, joining.keys), both(layer.values, joining.values)


def _draw(logits: Tensor, rows: Sequence[_Row]) -> list[int]:
    """The next token of each row, by its own generator: what others draw does not matter."""
    drawn: list[int] = logits.argmax(-1).tolist()
    for number, row in enumerate(rows):
        if row.temperature > 0:
            chances = torch.softmax(logits[number] / max(row.temperature, _COLDEST), -1)
            drawn[number] = int(torch.multinomial(chances, 1, generator=row.generator))
    return drawn
