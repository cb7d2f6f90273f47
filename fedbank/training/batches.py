"""Padded tensors for a set of records, and the positions whose predictions count.

N records, T padded length, A answer positions kept for a record, M answer tokens in all. Padding is on the right: under
causal attention no answer position can see it.

A coordinator chooses the adapter, so it can make rounding errors as large as it likes, and rounding depends on the
shape of a computation. The ``Shape`` in which a unit is computed is therefore a function of that unit alone, and only
units of one shape are computed together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedbank.data.encode import EncodedUnits

_LENGTH_MULTIPLE = 8
_LEAST_WIDTH, _LEAST_ANSWERS = 16, 16
"""Matrix products with fewer than a dozen rows take other paths than larger ones, which round otherwise."""
_FINE_UP_TO = 64


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """How one unit is computed: ``records`` rows of ``width`` tokens each, with ``answers`` places for predictions."""

    width: int
    answers: int
    records: int


@dataclass(frozen=True, slots=True, eq=False)
class RecordBatch:
    """``input_NT`` and, for each of M answer tokens, where it is predicted, what it is, and whose it is.

    ``position_M`` indexes the flattened (N·T) positions; ``row_M`` is the record's row; ``slot_M`` its place among the
    N·``answers`` places for predictions; ``weight_N`` scales each record's loss; ``answer_length_N`` is its number of
    answer tokens. ``padding_NT`` is true where there is no token.
    """

    input_NT: Tensor
    position_M: Tensor
    target_M: Tensor
    row_M: Tensor
    slot_M: Tensor
    answers: int
    weight_N: Tensor
    answer_length_N: Tensor
    padding_NT: Tensor


def shape_of(data: EncodedUnits, records: NDArray[np.int64]) -> Shape:
    """The shape of a unit with these ``records``: a function of the longest of them and of the longest answer."""
    lengths = data.record_starts[records + 1] - data.record_starts[records]
    answers = lengths - data.answer_offsets[records]
    return Shape(padded_width(int(lengths.max())), padded_answers(int(answers.max())), len(records))


def padded_width(longest: int) -> int:
    """``longest`` rounded up to a multiple of 8, above 64 to one of four steps between two powers of two."""
    step = _LENGTH_MULTIPLE if longest <= _FINE_UP_TO else 1 << (longest - 1).bit_length() - 3
    return max(_LEAST_WIDTH, -(-longest // step) * step)


def padded_answers(longest: int) -> int:
    """``longest`` rounded up to a power of two, at least 16."""
    return max(_LEAST_ANSWERS, 1 << (longest - 1).bit_length())


def collate(
    data: EncodedUnits,
    records: Sequence[int],
    weights: Sequence[float],
    device: torch.device,
    shape: Shape | None = None,
) -> RecordBatch:
    """``records`` of ``data`` as rows of ``shape``; without one, padded to the longest (for evaluation only)."""
    tokens = [data.record(record) for record in records]
    starts = data.answer_offsets[np.asarray(records, np.int64)].astype(np.int64)
    lengths = np.asarray([len(sequence) for sequence in tokens], np.int64)
    counts = lengths - starts
    if shape is None:
        width, answers = -(-int(lengths.max()) // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE, int(counts.max())
    else:
        width, answers = shape.width, shape.answers
    padded = np.zeros((len(tokens), width), np.int64)
    for row, sequence in enumerate(tokens):
        padded[row, : len(sequence)] = sequence
    rows = np.repeat(np.arange(len(tokens)), counts)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    flat = rows * width + np.repeat(starts, counts) + within
    padding = np.arange(width) >= lengths[:, None]
    return RecordBatch(
        torch.from_numpy(padded).to(device),
        torch.from_numpy(flat - 1).to(device),
        torch.from_numpy(padded.reshape(-1)[flat]).to(device),
        torch.from_numpy(rows).to(device),
        torch.from_numpy(rows * answers + within).to(device),
        answers,
        torch.tensor(weights, dtype=torch.float32, device=device),
        torch.from_numpy(counts).to(device),
        torch.from_numpy(padding).to(device),
    )
