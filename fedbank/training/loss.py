"""Cross-entropy of the answer tokens, one number per record, in chunks so that a large vocabulary fits.

Never the model's own ``labels=`` loss: it divides by the tokens of the whole batch, which couples one
customer's gradient to their batch mates. For the same reason a record takes as many rows of the output layer as its
batch's shape says, however many answer tokens it and its batch mates have: rows without a token are zero.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from fedbank.training.batches import RecordBatch

_MAX_LOGITS = 1 << 26  # per chunk: 256 MB in fp32


@torch.no_grad()
def predict(model: Any, batch: RecordBatch) -> tuple[Tensor, Tensor]:
    """(M,) cross-entropy in nats and (M,) whether the answer token is the most likely one."""
    hidden_MD = _answer_states(model, batch)
    losses, hits = [], []
    for hidden, target in _chunks(hidden_MD, batch.target_M, model.config.vocab_size):
        logits = _logits(model, hidden)
        losses.append(functional.cross_entropy(logits, target, reduction="none"))
        hits.append(logits.argmax(dim=1) == target)
    return torch.cat(losses), torch.cat(hits)


def record_losses(model: Any, batch: RecordBatch) -> Tensor:
    """(N,) mean cross-entropy in nats over each record's own answer tokens, ready for backward."""
    hidden_MD = _answer_states(model, batch)
    places = len(batch.weight_N) * batch.answers
    hidden = hidden_MD.new_zeros(places, hidden_MD.shape[1]).index_copy(0, batch.slot_M, hidden_MD)
    target = batch.target_M.new_zeros(places).index_copy(0, batch.slot_M, batch.target_M)
    chunks = list(_chunks(hidden, target, model.config.vocab_size, batch.answers))
    if len(chunks) == 1:
        losses = _chunk_loss(hidden, target, model)
    else:
        losses = torch.cat([checkpoint(_chunk_loss, *chunk, model, use_reentrant=False) for chunk in chunks])
    sums_N = torch.zeros(len(batch.weight_N), device=losses.device)
    return sums_N.index_add(0, batch.row_M, losses[batch.slot_M]) / batch.answer_length_N


def _answer_states(model: Any, batch: RecordBatch) -> Tensor:
    hidden_NTD: Tensor = model.model(input_ids=batch.input_NT, use_cache=False).last_hidden_state
    return hidden_NTD.flatten(0, 1)[batch.position_M]


def _chunk_loss(hidden: Tensor, target: Tensor, model: Any) -> Tensor:
    return functional.cross_entropy(_logits(model, hidden), target, reduction="none")


def _logits(model: Any, hidden: Tensor) -> Tensor:
    logits: Tensor = model.lm_head(hidden)
    return logits.float()


def _chunks(hidden: Tensor, target: Tensor, vocabulary: int, answers: int = 1) -> Any:
    """Of whole records with ``answers`` rows each, or of equal parts of one: batches do not say which rows meet."""
    size = max(1, _MAX_LOGITS // vocabulary)
    size = size // answers * answers if size >= answers else 1 << size.bit_length() - 1
    return zip(torch.split(hidden, size), torch.split(target, size), strict=True)
