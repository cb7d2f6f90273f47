"""The loss of a record is that record's business: not its batch mates', not the padding's, not the chunks'."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedbank.adapter.lora import AdaptedModel
from fedbank.data.encode import EncodedUnits
from fedbank.training import batches, loss
from fedbank.training.batches import collate
from fedbank.training.loss import predict, record_losses

CPU = torch.device("cpu")
RECORDS = [1] * 6


@pytest.fixture(scope="module")
def model(make_model: Callable[..., AdaptedModel]) -> AdaptedModel:
    return make_model("qwen3", "AB")


@pytest.fixture(scope="module")
def data(make_units: Callable[..., EncodedUnits]) -> EncodedUnits:
    return make_units(RECORDS)


def _alone(model: AdaptedModel, data: EncodedUnits, record: int) -> Tensor:
    """Mean nats over the answer tokens, from the whole model's logits on the bare record."""
    tokens = torch.from_numpy(data.record(record).astype(np.int64))[None]
    logs = model.base(input_ids=tokens).logits[0].log_softmax(dim=-1)
    first = int(data.answer_offsets[record])
    picked = logs[first - 1 : -1].gather(1, tokens[0, first:, None])
    return -picked.mean()


def _gradient(model: AdaptedModel, value: Tensor) -> Tensor:
    return torch.cat([grad.flatten() for grad in torch.autograd.grad(value, model.parameters)])


def test_batched_losses_and_gradients_are_those_of_each_record_alone(model: AdaptedModel, data: EncodedUnits) -> None:
    records = list(range(6))
    together = record_losses(model.base, collate(data, records, [1.0] * 6, CPU))
    for record in records:
        alone = _alone(model, data, record)
        torch.testing.assert_close(together[record], alone, rtol=1e-5, atol=1e-6)
        batch = collate(data, records, [1.0] * 6, CPU)
        ours, reference = _gradient(model, record_losses(model.base, batch)[record]), _gradient(model, alone)
        assert float((ours - reference).norm() / reference.norm()) < 1e-5


@pytest.mark.parametrize("mates", [[], [1], [1, 2, 3, 4, 5], [3, 3, 3]], ids=["alone", "one", "five", "copies"])
@pytest.mark.parametrize("multiple", [1, 8, 64], ids=lambda width: f"padded-to-{width}")
def test_batch_mates_and_padding_do_not_change_a_loss(
    model: AdaptedModel, data: EncodedUnits, monkeypatch: pytest.MonkeyPatch, mates: list[int], multiple: int
) -> None:
    monkeypatch.setattr(batches, "_LENGTH_MULTIPLE", multiple)
    batch = collate(data, [0, *mates], [1.0] * (1 + len(mates)), CPU)
    torch.testing.assert_close(record_losses(model.base, batch)[0], _alone(model, data, 0), rtol=1e-5, atol=1e-6)


def test_the_models_own_loss_would_fail_these_tests(model: AdaptedModel, data: EncodedUnits) -> None:
    """``labels=`` divides by the tokens of the whole batch: the mean is not the mean of the records' losses."""
    batch = collate(data, [0, 1, 2], [1.0] * 3, CPU)
    labels = torch.full_like(batch.input_NT, -100).flatten()
    labels[batch.position_M + 1] = batch.target_M
    coupled = model.base(input_ids=batch.input_NT, labels=labels.view_as(batch.input_NT)).loss
    assert abs(float(coupled - record_losses(model.base, batch).mean())) > 1e-3


@pytest.mark.parametrize("tokens_per_chunk", [1, 3, 7, 10_000])
def test_chunks_change_neither_losses_nor_gradients(
    model: AdaptedModel, data: EncodedUnits, monkeypatch: pytest.MonkeyPatch, tokens_per_chunk: int
) -> None:
    batch = collate(data, list(range(6)), [1.0] * 6, CPU)
    whole = record_losses(model.base, batch)
    gradient = _gradient(model, (whole * torch.arange(1.0, 7)).sum())
    losses, hits = predict(model.base, batch)
    monkeypatch.setattr(loss, "_MAX_LOGITS", tokens_per_chunk * model.base.config.vocab_size)
    chunked = record_losses(model.base, batch)
    torch.testing.assert_close(chunked, whole, rtol=1e-6, atol=1e-7)
    again = _gradient(model, (chunked * torch.arange(1.0, 7)).sum())
    assert float((again - gradient).norm() / gradient.norm()) < 1e-5
    chunked_losses, chunked_hits = predict(model.base, batch)
    torch.testing.assert_close(chunked_losses, losses, rtol=1e-6, atol=1e-6)
    assert torch.equal(chunked_hits, hits)


def test_a_batch_marks_exactly_the_answer_tokens(data: EncodedUnits) -> None:
    batch = collate(data, [4, 2], [0.5, 0.25], CPU)
    assert batch.input_NT.shape[1] % 8 == 0
    for row, record in enumerate([4, 2]):
        tokens, first = data.record(record), int(data.answer_offsets[record])
        assert batch.input_NT[row, : len(tokens)].tolist() == tokens.tolist()
        assert not batch.input_NT[row, len(tokens) :].any()
        mine = batch.row_M == row
        assert batch.target_M[mine].tolist() == tokens[first:].tolist()
        columns = batch.position_M[mine] - row * batch.input_NT.shape[1]
        assert columns.tolist() == list(range(first - 1, len(tokens) - 1))
        assert int(batch.answer_length_N[row]) == len(tokens) - first
    assert batch.weight_N.tolist() == [0.5, 0.25]


@pytest.fixture(autouse=True)
def _no_stray_gradients(model: Any) -> Any:
    yield
    assert all(parameter.grad is None for parameter in model.peft_model.parameters())
