"""Scores of an adapted model on records: negative log-likelihood and exact match."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedbank.adapter.lora import AdaptedModel
from fedbank.data.encode import EncodedUnits
from fedbank.training.batches import collate
from fedbank.training.loss import predict


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Mean over ``n`` records of the mean nats per answer token, and the share answered exactly.

    A record counts as exact if every token of the reference answer, its end included, is the most likely one
    after the reference's beginning: then, and only then, greedy decoding writes the reference. A reference that was cut
    to fit the model's length is never matched.
    """

    nll: float
    exact_match: float
    n: int


def evaluate(model: AdaptedModel, data: EncodedUnits, *, device: torch.device, batch_size: int = 128) -> Evaluation:
    """Score all records of ``data`` with the adapter that ``model`` holds now."""
    nll_R, exact_R = score_records(model, data, device=device, batch_size=batch_size)
    return summarise(nll_R, exact_R)


def summarise(nll_R: NDArray[np.float64], exact_R: NDArray[np.bool_]) -> Evaluation:
    """The means over R records."""
    return Evaluation(float(nll_R.mean()), float(exact_R.mean()), len(nll_R))


def score_records(
    model: AdaptedModel, data: EncodedUnits, *, device: torch.device, batch_size: int = 128
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(R,) mean nats per answer token and (R,) exact match, in the order of the records."""
    nll_R, exact_R = np.zeros(data.num_records), np.zeros(data.num_records, bool)
    order = np.argsort(np.diff(data.record_starts), kind="stable")
    for first in range(0, len(order), batch_size):
        records = order[first : first + batch_size]
        batch = collate(data, records.tolist(), [1.0] * len(records), device)
        losses_M, hits_M = predict(model.base, batch)
        zeros = torch.zeros(len(records), dtype=torch.float64, device=device)
        sums_N = zeros.index_add(0, batch.row_M, losses_M.double())
        hits_N = zeros.index_add(0, batch.row_M, hits_M.double())
        nll_R[records] = (sums_N / batch.answer_length_N).cpu().numpy()
        exact_R[records] = (hits_N == batch.answer_length_N).cpu().numpy()
    return nll_R, exact_R & data.complete()
