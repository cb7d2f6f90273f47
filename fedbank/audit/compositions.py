"""Who else is in a step: customers of chosen sizes and lengths, and one who joins them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedbank.data.encode import EncodedUnits

Records = tuple[int, ...]
"""The numbers of one customer's records in a pool."""
_WIDTH = 8
_MOST_RECORDS = 4


@dataclass(frozen=True, slots=True)
class Composition:
    """The customers of one step, as records of a pool, and the one who joins (or leaves) them."""

    name: str
    others: tuple[Records, ...]
    joining: Records


def customers(pool: EncodedUnits, units: Sequence[Records]) -> tuple[EncodedUnits, list[tuple[int, NDArray[np.int64]]]]:
    """``units`` as a data set of their own, in this order, and a sample that takes all of them with all records."""
    records = [record for unit in units for record in unit]
    tokens = [pool.record(record) for record in records]
    data = EncodedUnits(
        np.concatenate(tokens) if tokens else pool.tokens[:0],
        np.concatenate([[0], np.cumsum([len(text) for text in tokens])]).astype(np.int64),
        pool.answer_offsets[np.asarray(records, np.int64)],
        np.concatenate([[0], np.cumsum([len(unit) for unit in units])]).astype(np.int64),
        pool.end_token,
    )
    return data, [(number, np.arange(len(unit), dtype=np.int64)) for number, unit in enumerate(units)]


def draw_compositions(pool: EncodedUnits, others: int, rng: np.random.Generator) -> list[Composition]:
    """One composition of every kind, with ``others`` customers beside the one who joins."""
    lengths = np.diff(pool.record_starts)
    return [Composition(name, *make(lengths, others, rng)) for name, make in _KINDS.items()]


_Drawn = tuple[tuple[Records, ...], Records]
_Lengths = NDArray[np.int64]


def _one_width(lengths: _Lengths, others: int, rng: np.random.Generator, *, joining: int) -> _Drawn:
    """Others who fill one width, so that nobody pads them; who joins has a larger (1), smaller (-1) or equal width."""
    full = np.flatnonzero(lengths % _WIDTH == 0)
    full = full if len(full) else np.arange(len(lengths))
    usual = int(rng.choice(lengths[full]))
    widths = -(-lengths // _WIDTH)
    choices = np.flatnonzero(np.sign(widths - -(-usual // _WIDTH)) == joining)
    crowd = np.flatnonzero(lengths == usual)
    chosen = rng.choice(crowd, others, replace=len(crowd) < others)
    joins = int(rng.choice(choices if len(choices) else np.arange(len(lengths))))
    return tuple((int(record),) for record in chosen), (joins,)


def _several(lengths: _Lengths, others: int, rng: np.random.Generator) -> _Drawn:
    """Everybody with one to four records of any length."""
    sizes = rng.integers(1, _MOST_RECORDS + 1, others + 1)
    units = [tuple(int(record) for record in rng.integers(len(lengths), size=size)) for size in sizes]
    return tuple(units[:-1]), units[-1]


def _long_crowd(lengths: _Lengths, others: int, rng: np.random.Generator) -> _Drawn:
    """One record each, of any length; who joins has four, the pool's longest among them."""
    chosen = rng.integers(len(lengths), size=others)
    joins = (*rng.integers(len(lengths), size=_MOST_RECORDS - 1), int(lengths.argmax()))
    return tuple((int(record),) for record in chosen), tuple(int(record) for record in joins)


def _longer(lengths: _Lengths, others: int, rng: np.random.Generator) -> _Drawn:
    return _one_width(lengths, others, rng, joining=1)


def _shorter(lengths: _Lengths, others: int, rng: np.random.Generator) -> _Drawn:
    return _one_width(lengths, others, rng, joining=-1)


def _same(lengths: _Lengths, others: int, rng: np.random.Generator) -> _Drawn:
    """Who joins may be shorter by some tokens: padded, where the others are not."""
    return _one_width(lengths, others, rng, joining=0)


_KINDS: dict[str, Callable[[_Lengths, int, np.random.Generator], _Drawn]] = {
    "a longer record joins": _longer,
    "a shorter record joins": _shorter,
    "a record of the same width joins": _same,
    "customers with several records": _several,
    "the longest record joins with three more": _long_crowd,
}
