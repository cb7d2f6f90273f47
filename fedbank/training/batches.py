"""Padded tensors for a set of records, and the positions whose predictions count.

N records, T padded length, M answer tokens in all. Padding is on the right: under causal attention no
answer position can see it, so it changes neither a loss nor a gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedbank.data.encode import EncodedUnits

_LENGTH_MULTIPLE = 8


@dataclass(frozen=True, slots=True, eq=False)
class RecordBatch:
    """``input_NT`` and, for each of M answer tokens, where it is predicted, what it is, and whose it is.

    ``position_M`` indexes the flattened (N·T) positions; ``row_M`` is the record's row; ``weight_N`` scales
    each record's loss; ``answer_length_N`` its number of answer tokens.
    """

    input_NT: Tensor
    position_M: Tensor
    target_M: Tensor
    row_M: Tensor
    weight_N: Tensor
    answer_length_N: Tensor


def collate(data: EncodedUnits, records: Sequence[int], weights: Sequence[float], device: torch.device) -> RecordBatch:
    """Pad ``records`` of ``data`` to a common length (a multiple of 8, so that few shapes occur)."""
    tokens = [data.record(record) for record in records]
    longest = max(len(sequence) for sequence in tokens)
    width = -(-longest // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE
    padded = np.zeros((len(tokens), width), np.int64)
    for row, sequence in enumerate(tokens):
        padded[row, : len(sequence)] = sequence
    starts = data.answer_offsets[np.asarray(records, np.int64)].astype(np.int64)
    counts = np.asarray([len(sequence) for sequence in tokens], np.int64) - starts
    rows = np.repeat(np.arange(len(tokens)), counts)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    columns = np.repeat(starts, counts) + within
    flat = rows * width + columns
    return RecordBatch(
        torch.from_numpy(padded).to(device),
        torch.from_numpy(flat - 1).to(device),
        torch.from_numpy(padded.reshape(-1)[flat]).to(device),
        torch.from_numpy(rows).to(device),
        torch.tensor(weights, dtype=torch.float32, device=device),
        torch.from_numpy(counts).to(device),
    )
