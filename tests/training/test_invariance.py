"""A customer's clipped gradient is a function of that customer alone, to the bit, whoever is beside them.

The adapters are those of a coordinator who lies: padding that overflows, rows that cancel but for their rounding.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedbank.adapter.lora import AdaptedModel
from fedbank.data.encode import EncodedUnits
from fedbank.model.loading import enable_checkpointing
from fedbank.privacy.clipping import GRID_STEPS
from fedbank.privacy.plan import PrivacyPlan, Sampling
from fedbank.training import loss, unit_engine
from fedbank.training.batches import Shape, padded_answers, padded_width, shape_of
from fedbank.training.clipped import clipped_sum
from fedbank.training.local import LocalSettings

CPU = torch.device("cpu")
MakeModel = Callable[..., AdaptedModel]
PLAN = PrivacyPlan.with_noise(Sampling(1.0, 20.0, 3, 1), 1.0, 0.2, 1e-5)
ADAPTERS = ("benign", "cancelling rows", "exploding", "overflowing at some tokens")


def make_data(vocabulary: int, seed: int, count: int = 24) -> EncodedUnits:
    """Customers of one to three records of 2 to 90 random tokens."""
    rng = np.random.default_rng(seed)
    units = np.concatenate([[0], np.cumsum(rng.choice([1, 1, 1, 2, 3], count))]).astype(np.int64)
    lengths = rng.integers(2, 90, units[-1])
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    answers = np.array([rng.integers(1, length) for length in lengths], np.int32)
    return EncodedUnits(rng.integers(0, vocabulary, starts[-1]).astype(np.int32), starts, answers, units)


def lie(model: AdaptedModel, kind: str) -> None:
    """Finite adapters that amplify rounding, overflow, or do neither."""
    rng, state = np.random.default_rng(3), model.read()
    for pair in model.spec.pairs:
        a, b = state[pair.a_name], state[pair.b_name]
        if kind == "cancelling rows":
            for row in range(0, len(a) - 1, 2):
                a[row + 1] = a[row] * np.float32(3)
                column = 1e6 * rng.normal(0, 1, len(b)).astype(np.float32)
                b[:, row], b[:, row + 1] = column, -column / np.float32(3)
        else:
            scale = {"benign": 0.1, "exploding": 1e4, "overflowing at some tokens": 1e30}[kind]
            b[:] = rng.normal(0, scale, b.shape)
    model.write(state)


def _sum(model: AdaptedModel, data: EncodedUnits, units: list[int], micro_batch: int, engine: str) -> Tensor:
    chosen = [(unit, np.arange(min(3, data.records_per_unit()[unit]))) for unit in units]
    settings = LocalSettings(1, 1.0, "sgd", micro_batch=micro_batch, per_example=engine)
    total = clipped_sum(model, data, chosen, PLAN, settings, device=CPU, mask_seed=5 if model.dropout else None)
    return torch.cat([tensor.flatten() for tensor in total.steps])


def count_unequal(model: AdaptedModel, engine: str, compositions: int, seed: int = 0) -> int:
    """Random sets of customers, orders and micro-batches whose sum is not the sum of everybody alone."""
    data, rng = make_data(model.base.config.vocab_size, seed), np.random.default_rng(seed)
    alone = [_sum(model, data, [unit], 1, engine) for unit in range(data.num_units)]
    assert all(int(row.abs().max()) <= GRID_STEPS for row in alone)
    unequal = 0
    for _ in range(compositions):
        units = rng.permutation(data.num_units)[: rng.integers(1, data.num_units + 1)].tolist()
        total = _sum(model, data, units, int(rng.choice([1, 2, 7, 64])), engine)
        unequal += not torch.equal(total, torch.stack([alone[unit] for unit in units]).sum(0))
    return unequal


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> int:
    before = torch.get_num_threads()
    request.addfinalizer(lambda: torch.set_num_threads(before))
    torch.set_num_threads(request.param)
    return int(request.param)


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("engine", ["direct", "opacus"])
@pytest.mark.parametrize(("kind", "trainable"), [("qwen2", "B"), ("qwen3", "AB")])
def test_a_sum_is_that_of_everybody_alone_to_the_bit(
    make_model: MakeModel, kind: str, trainable: str, engine: str, adapter: str
) -> None:
    model = make_model(kind, trainable)
    lie(model, adapter)
    assert count_unequal(model, engine, 6) == 0


@pytest.mark.parametrize("threads", [2, 3], indirect=True)
def test_threads_change_nothing(make_model: MakeModel, threads: int) -> None:
    model = make_model("qwen3", "AB")
    lie(model, "cancelling rows")
    assert count_unequal(model, "direct", 6) == 0


@pytest.mark.parametrize("checkpointing", ["none", "reentrant", "non-reentrant"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_dropout_and_checkpointing_change_nothing(make_model: MakeModel, checkpointing: str, dropout: float) -> None:
    model = make_model("qwen3", "AB", dropout=dropout)
    enable_checkpointing(model.base, checkpointing)
    lie(model, "cancelling rows")
    assert count_unequal(model, "direct", 3) == 0


def test_padding_that_overflows_takes_no_record_away(make_model: MakeModel) -> None:
    """Beside a longer record of the same customer, a short one is padded, and its gradient is what it is alone."""
    model = make_model("qwen3", "AB", targets=("gate_proj", "up_proj", "down_proj"))
    lie(model, "benign")
    padded, seen = Shape(64, 16, 1), []
    model.base.model.layers[0].mlp.down_proj.register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
    data = make_data(model.base.config.vocab_size, 1)
    short = next(np.asarray([record]) for record in range(data.num_records) if len(data.record(record)) in range(8, 16))
    with unit_engine.unit_engine(model, "direct", CPU, None) as engine:
        wide = engine.take(data, [short], padded, 0)
        length = len(data.record(int(short[0])))
        assert not seen[-1][0, length:].any()
        exact = engine.take(data, [short], replace(padded, width=length), 0)
    for one, other in zip(wide, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("checkpointing", ["none", "reentrant", "non-reentrant"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_what_is_not_finite_at_padding_reaches_no_gradient(
    make_model: MakeModel, direction: str, checkpointing: str
) -> None:
    model = make_model("qwen3", "AB", targets=("q_proj", "up_proj"))
    enable_checkpointing(model.base, checkpointing)
    lie(model, "benign")
    data = make_data(model.base.config.vocab_size, 1)
    record = next(number for number in range(data.num_records) if len(data.record(number)) in range(20, 30))
    layer, length = model.lora_layers[0], len(data.record(record))

    def poison(tensor: Tensor) -> Tensor:
        spoilt = tensor.clone()
        spoilt[:, length:] = float("nan")
        return spoilt

    if direction == "forward":  # registered before the guard's own hook, which sees what this one makes
        layer.register_forward_pre_hook(lambda module, args: (poison(args[0]), *args[1:]))
    with unit_engine.unit_engine(model, "direct", CPU, None) as engine:
        if direction == "backward":  # registered after the guard's: its gradient comes first on the way back
            layer.register_forward_hook(lambda module, args, output: _poisoned_gradient(output, poison))
        grads = engine.take(data, [np.asarray([record])], shape_of(data, np.asarray([record])), 0)
    assert all(bool(torch.isfinite(grad).all()) for grad in grads)


def _poisoned_gradient(output: Tensor, poison: Callable[[Tensor], Tensor]) -> Tensor:
    output = output.view_as(output)
    if output.requires_grad:  # the first pass under reentrant checkpointing takes no gradient
        output.register_hook(poison)
    return output


@pytest.mark.parametrize(
    ("longest", "width"), [(1, 16), (16, 16), (17, 24), (64, 64), (65, 80), (129, 160), (512, 512)]
)
def test_widths_are_few(longest: int, width: int) -> None:
    assert padded_width(longest) == width
    assert all(length <= padded_width(length) <= max(16, 1.25 * length + 8) for length in range(1, 5000))
    assert [padded_answers(count) for count in (1, 16, 17, 100)] == [16, 16, 32, 128]


def test_a_machine_on_which_batches_round_otherwise_takes_one_at_a_time(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("qwen3", "AB")
    lie(model, "cancelling rows")
    monkeypatch.setattr(model.base.model.layers[0].mlp.act_fn, "forward", _coupled)
    assert count_unequal(model, "direct", 4) == 0
    single = [verdict for key, verdict in model.shared.verdicts.items() if key[-2].records == 1]
    assert single and not any(single)


def _coupled(x: Tensor) -> Tensor:
    """Rounds otherwise where it has more than one row."""
    return torch.nn.functional.silu(x) * (1.0 if len(x) == 1 else 1.0 + 2.0**-23)


def test_a_verdict_holds_for_its_threads_only(make_model: MakeModel) -> None:
    model, before = make_model("qwen3", "AB"), torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            count_unequal(model, "direct", 1)
    finally:
        torch.set_num_threads(before)
    assert {key[2] for key in model.shared.verdicts} == {1, 2}


def test_what_is_tried_does_not_come_from_the_coordinator(make_model: MakeModel) -> None:
    """An adapter of zeros hides what rounds: the trial has one of its own."""
    model = make_model("qwen3", "AB")
    model.write({name: np.zeros_like(tensor) for name, tensor in model.read().items()})
    count_unequal(model, "direct", 1)
    twin = model.shared.twin(model, lambda made: None)
    assert all(tensor.any() for tensor in twin.read().values())
    assert not any(tensor.any() for tensor in model.read().values())


def test_a_customer_with_very_many_records_is_computed_in_parts(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their memory is that of a part; their gradient is that of all records, and still theirs alone."""
    model, data = make_model("qwen3", "AB"), make_data(50, 4)
    lie(model, "benign")
    many = int(np.argmax(data.records_per_unit()))
    whole = _sum(model, data, [many], 1, "direct")
    rows: list[int] = []
    model.base.model.layers[0].register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    monkeypatch.setattr(unit_engine, "_MOST_TOKENS", 100)
    parts = _sum(model, data, [many], 1, "direct")
    assert data.records_per_unit()[many] == 3 and max(rows) == 1
    assert float((parts - whole).double().norm()) <= 1e-5 * float(whole.double().norm())
    assert count_unequal(model, "direct", 4) == 0


@pytest.mark.parametrize("rows", [441, 40, 17, 5])
def test_the_output_layers_chunks_couple_nobody(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """A last chunk of a few rows rounds otherwise than the rows of a customer alone: chunks end where records end."""
    model = make_model("qwen3", "AB")
    lie(model, "cancelling rows")
    monkeypatch.setattr(loss, "_MAX_LOGITS", rows * model.base.config.vocab_size)
    assert count_unequal(model, "direct", 4, seed=3) == 0


def test_a_trial_sees_every_row_of_every_place(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which only the last answer row of the last customer rounds otherwise."""
    model = make_model("qwen3", "AB")
    lie(model, "benign")
    honest = loss._logits

    def at_the_end(base: Any, hidden: Tensor) -> Tensor:
        logits = honest(base, hidden)
        nudge = torch.zeros_like(logits)
        nudge[-1, 0] = 1e-3 if len(hidden) > 16 else 0.0
        return logits + nudge

    monkeypatch.setattr(loss, "_logits", at_the_end)
    with unit_engine.unit_engine(model, "direct", CPU, None) as engine:
        assert engine.together(Shape(24, 16, 1), 8) == 1


def test_no_more_tokens_are_computed_together_than_of_one_customer(make_model: MakeModel) -> None:
    model = make_model("qwen3", "AB")
    with unit_engine.unit_engine(model, "direct", CPU, None) as engine:
        assert engine.together(Shape(1024, 16, 2), 64) <= 2
        assert engine.together(Shape(4096, 16, 1), 64) == 1
