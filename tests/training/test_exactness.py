"""Per-customer gradients and the whole step against a loop that runs every record alone, over everything that can vary.

The loop knows nothing of ours but the model, its parameters and, under dropout, the masks: it averages the gradients
of a customer's records, clips and adds up in fp64.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedbank.adapter.lora import AdaptedModel
from fedbank.data.encode import EncodedUnits
from fedbank.model.loading import enable_checkpointing
from fedbank.privacy.clipping import ClippedSum, clip_and_sum
from fedbank.privacy.noise import RandomStream
from fedbank.privacy.plan import Sampling
from fedbank.training.dropout import DropoutMasks, record_dropout
from fedbank.training.local import LocalSettings, train_round

CPU = torch.device("cpu")
CUSTOMERS = [1, 2, 20, 3, 1, 1, 2, 4]
BATCH, CLIP_NORM, LEARNING_RATE = 6.5, 1.5, 100.0
LIMIT = {"float32": 1e-5, "bfloat16": 5e-2}
EVERYTHING = [
    (kind, trainable, dtype, dropout)
    for kind in ("qwen2", "qwen3")
    for trainable in ("B", "AB")
    for dtype in ("float32", "bfloat16")
    for dropout in (0.0, 0.3)
]


class WithoutNoise:
    """All customers with all their records, clipped but neither noised nor rounded; keeps what it was given to clip."""

    private = False
    sampling = Sampling(1.0, BATCH, max(CUSTOMERS), 10)

    def __init__(self) -> None:
        self.given: list[list[Tensor]] = []

    def clip(self, grads_UP: Any) -> ClippedSum:
        self.given.append(list(grads_UP))
        return clip_and_sum(grads_UP, CLIP_NORM)

    def release(self, total: ClippedSum, stream: RandomStream) -> tuple[Tensor, ...]:
        return tuple(tensor / BATCH for tensor in total.tensors)

    def gradients(self) -> Tensor:
        """(U, P) of all micro-batches, in their order."""
        return torch.cat([torch.cat([grad.flatten(1) for grad in part], dim=1) for part in self.given])


def _order(data: EncodedUnits) -> list[int]:
    """Customers as micro-batches take them: the shortest first."""
    lengths = [len(data.record(record)) for record in range(data.num_records)]
    return sorted(range(len(CUSTOMERS)), key=lambda u: max(lengths[data.unit_starts[u] : data.unit_starts[u + 1]]))


def _loop(model: AdaptedModel, data: EncodedUnits, dropout: float) -> Tensor:
    """(U, P): the mean of each customer's records, one record and one backward pass at a time."""
    masks = DropoutMasks(dropout, int(RandomStream.derived("round").uniform(1)[0] * 2**52))
    rows = []
    with record_dropout(model, masks):
        for unit in _order(data):
            mean = torch.zeros(sum(p.numel() for p in model.parameters), dtype=torch.float64)
            for record in range(data.unit_starts[unit], data.unit_starts[unit + 1]):
                tokens = torch.from_numpy(data.record(record).astype(np.int64))[None]
                masks.begin(0, [record], [tokens.shape[1]])
                logits, first = model.base(input_ids=tokens).logits[0].float(), int(data.answer_offsets[record])
                loss = nn.functional.cross_entropy(logits[first - 1 : -1], tokens[0, first:])
                grads = torch.autograd.grad(loss, model.parameters)
                mean += torch.cat([grad.flatten() for grad in grads]).double() / CUSTOMERS[unit]
            rows.append(mean)
    return torch.stack(rows)


@pytest.fixture(scope="module")
def data(make_units: Callable[..., EncodedUnits]) -> EncodedUnits:
    return make_units(CUSTOMERS)


@pytest.fixture(scope="module")
def loop(make_model: Callable[..., AdaptedModel], data: EncodedUnits) -> Iterator[Callable[..., Tensor]]:
    @cache
    def run(kind: str, trainable: str, dtype: str, dropout: float) -> Tensor:
        return _loop(make_model(kind, trainable, dtype=dtype), data, dropout)

    yield run


def _ours(model: AdaptedModel, data: EncodedUnits, micro_batch: int, engine: str = "direct") -> tuple[Tensor, Tensor]:
    """(U, P) before the clip, and (P,) the change of one step."""
    plan = WithoutNoise()
    settings = LocalSettings(1, LEARNING_RATE, "sgd", micro_batch=micro_batch, per_example=engine)
    change = train_round(model, data, plan, settings, model.read(), stream=RandomStream.derived("round"), device=CPU)
    return plan.gradients(), torch.cat([torch.from_numpy(tensor).flatten() for tensor in change.values()])


def _expected_change(grads_UP: Tensor) -> Tensor:
    norms = grads_UP.norm(dim=1, keepdim=True)
    assert (norms > CLIP_NORM).any() and (norms < CLIP_NORM).any()
    return -LEARNING_RATE * (grads_UP * (CLIP_NORM / norms).clamp(max=1.0)).sum(0) / BATCH


def _error(ours: Tensor, reference: Tensor) -> float:
    """The largest relative L2 distance of a row."""
    return float(((ours.double() - reference).norm(dim=-1) / reference.norm(dim=-1)).max())


@pytest.mark.parametrize("checkpointing", ["none", "reentrant", "non-reentrant"])
@pytest.mark.parametrize(("kind", "trainable", "dtype", "dropout"), EVERYTHING)
def test_gradients_and_step_equal_the_loop(
    make_model: Callable[..., AdaptedModel],
    data: EncodedUnits,
    loop: Callable[..., Tensor],
    kind: str,
    trainable: str,
    dtype: str,
    dropout: float,
    checkpointing: str,
) -> None:
    reference = loop(kind, trainable, dtype, dropout)
    for micro_batch in (1, 2, 7, len(CUSTOMERS)):
        model = make_model(kind, trainable, dtype=dtype, dropout=dropout)
        enable_checkpointing(model.base, checkpointing)
        grads_UP, change = _ours(model, data, micro_batch)
        assert _error(grads_UP, reference) <= LIMIT[dtype]
        assert _error(change, _expected_change(reference)) <= LIMIT[dtype]


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_the_error_of_a_bf16_base_is_that_of_bf16(
    make_model: Callable[..., AdaptedModel], data: EncodedUnits, loop: Callable[..., Tensor], kind: str
) -> None:
    """Ours is as far from the fp32 gradients as the loop is in bf16: nothing more is lost."""
    exact, rounded = loop(kind, "AB", "float32", 0.0), loop(kind, "AB", "bfloat16", 0.0)
    grads_UP, _ = _ours(make_model(kind, "AB", dtype="bfloat16"), data, 3)
    assert float((rounded - exact).norm() / exact.norm()) > 1e-4
    assert float((grads_UP.double() - exact).norm()) <= 1.5 * float((rounded - exact).norm())


@pytest.mark.parametrize("checkpointing", ["none", "reentrant"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("trainable", ["B", "AB"])
@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_opacus_agrees_where_it_works(
    make_model: Callable[..., AdaptedModel],
    data: EncodedUnits,
    loop: Callable[..., Tensor],
    kind: str,
    trainable: str,
    dropout: float,
    checkpointing: str,
) -> None:
    model = make_model(kind, trainable, dropout=dropout)
    enable_checkpointing(model.base, checkpointing)
    grads_UP, change = _ours(model, data, 3, "opacus")
    reference = loop(kind, trainable, "float32", dropout)
    assert _error(grads_UP, reference) <= 1e-5
    assert _error(change, _expected_change(reference)) <= 1e-5
