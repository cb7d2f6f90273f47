"""Per-customer gradients and the whole step against a loop over single records, over everything that can vary."""

from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch
from torch import Tensor

from fedbank.adapter.lora import AdaptedModel
from fedbank.data.encode import EncodedUnits
from fedbank.model.loading import enable_checkpointing
from fedbank.privacy.noise import RandomStream
from fedbank.training.local import LocalSettings, train_round
from simulations.benchmarks.plain_loop import WithoutNoise, customer_gradients, order, step_change

CPU = torch.device("cpu")
CUSTOMERS = [1, 2, 20, 3, 1, 1, 2, 4]
CLIP_NORM, LEARNING_RATE = 1.5, 100.0
LIMIT = {"float32": 1e-5, "bfloat16": 5e-2}
EVERYTHING = [
    (kind, trainable, dtype, dropout)
    for kind in ("qwen2", "qwen3")
    for trainable in ("B", "AB")
    for dtype in ("float32", "bfloat16")
    for dropout in (0.0, 0.3)
]


@pytest.fixture(scope="module")
def data(make_units: Callable[..., EncodedUnits]) -> EncodedUnits:
    return make_units(CUSTOMERS)


@pytest.fixture(scope="module")
def loop(make_model: Callable[..., AdaptedModel], data: EncodedUnits) -> Iterator[Callable[..., Tensor]]:
    @cache
    def run(kind: str, trainable: str, dtype: str, dropout: float) -> Tensor:
        model = make_model(kind, trainable, dtype=dtype)
        return customer_gradients(model, data, dropout, RandomStream.derived("round"))

    yield run


def _ours(model: AdaptedModel, data: EncodedUnits, micro_batch: int, engine: str = "direct") -> tuple[Tensor, Tensor]:
    """(U, P) before the clip, and (P,) the change of one step."""
    plan = _plan()
    settings = LocalSettings(1, LEARNING_RATE, "sgd", micro_batch=micro_batch, per_example=engine)
    change = train_round(model, data, plan, settings, model.read(), stream=RandomStream.derived("round"), device=CPU)
    by_customer = torch.empty_like(plan.gradients())
    by_customer[order(data)] = plan.gradients()
    return by_customer, torch.cat([torch.from_numpy(tensor).flatten() for tensor in change.values()])


def _plan() -> WithoutNoise:
    return WithoutNoise(CLIP_NORM, max(CUSTOMERS))


def _expected_change(grads_UP: Tensor) -> Tensor:
    norms = grads_UP.norm(dim=1)
    assert (norms > CLIP_NORM).any() and (norms < CLIP_NORM).any()
    return step_change(grads_UP, _plan(), LEARNING_RATE)


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
