"""``fedbank audit hostile``: no adapter lets one customer move the clipped sum by more than C. And it would notice."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from fedbank.adapter.lora import AdaptedModel, LoraSettings
from fedbank.adapter.state import initial_state
from fedbank.audit.adversarial import FAMILIES, PADDING, TRIGGERS, Attack, make_adapter
from fedbank.audit.compositions import customers, draw_compositions
from fedbank.audit.hostile import Target, search
from fedbank.audit.separators import Separators, separate
from fedbank.cli import main
from fedbank.data.encode import EncodedUnits
from fedbank.model.loading import ModelSpec, load_base_model
from fedbank.privacy.clipping import ClippedSum
from fedbank.privacy.plan import PrivacyPlan, Sampling
from fedbank.training.local import LocalSettings

CLIP_NORM = 0.25
PLAN = PrivacyPlan.with_noise(Sampling(1.0, 8.0, 4, 1), 1.0, CLIP_NORM, 1e-5)
CLIP = PrivacyPlan.clip
CPU = torch.device("cpu")
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
KEYS = {"worst_change", "others_moved", "adapters_tried", "threads", "engine", "ok", "families"}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_target(make_model: Any, make_units: Any) -> Callable[..., Target]:
    """A step of a bank on a two-layer model of random weights; records of 6 to 39 tokens, many of 8, 16 or 24."""

    def make(kind: str = "qwen3", trainable: str = "B", engine: str = "direct") -> Target:
        model = make_model(kind, trainable, targets=MODULES, rank=4)
        return Target(
            model=model,
            pool=ragged_records(seed=1),
            plan=PLAN,
            clip_norm=CLIP_NORM,
            settings=LocalSettings(1, 1.0, per_example=engine),
            start=initial_state(model.spec, seed=0),
            direction=Separators(model, ragged_records(seed=2), CPU, records=60),
            device=CPU,
            others=5,
        )

    return make


def ragged_records(*, seed: int, count: int = 80) -> EncodedUnits:
    rng = np.random.default_rng(seed)
    lengths = np.where(rng.uniform(size=count) < 0.5, 8 * rng.integers(1, 4, count), rng.integers(6, 40, count))
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = rng.integers(1, 61, starts[-1]).astype(np.int32)
    return EncodedUnits(tokens, starts, (lengths - rng.integers(1, 5, count)).astype(np.int32), np.arange(count + 1))


def counted_twice(plan: Any, grads_UP: Any) -> ClippedSum:
    """A seeded defect: customers count twice where two or more are computed at once."""
    total = CLIP(PLAN, grads_UP)
    return total.plus(CLIP(PLAN, grads_UP)) if len(grads_UP[0]) > 1 else total


def rounded_together(plan: Any, grads_UP: Any) -> ClippedSum:
    """A seeded defect: how a gradient is rounded depends on how many are computed at once."""
    return CLIP(PLAN, [grad * (1 + 1e-6 * len(grad)) for grad in grads_UP])


@pytest.mark.parametrize(
    ("kind", "trainable", "engine", "adapters"),
    [
        ("qwen3", "B", "direct", len(FAMILIES)),
        ("qwen3", "AB", "opacus", 2),
        ("qwen2", "AB", "direct", 4),
        ("qwen2", "B", "opacus", 2),
    ],
)
def test_no_adapter_lets_a_customer_move_the_sum_by_more_than_the_clip_norm(
    make_target, kind, trainable, engine, adapters
):
    families = ("sinks", "cancelling", "padding", "extremes", "exploding", "length", "tokens")[:adapters]
    found = search(make_target(kind, trainable, engine), adapters=adapters, seconds=120, seed=0, families=families)
    assert found.adapters_tried == adapters and set(found.worst) == set(families)
    assert found.worst_change <= 1.0, found.worst
    assert found.worst_change > 0.99, (
        "a customer beyond the clip norm moves the sum by nearly C: else nothing was tried"
    )
    assert found.others_moved == 0.0, "the others' share is the same to the last bit, whoever joins and in any order"


@pytest.mark.parametrize(("defect", "ok"), [(counted_twice, False), (rounded_together, True)])
def test_a_defect_that_couples_customers_is_found(make_target, monkeypatch, defect, ok):
    monkeypatch.setattr(PrivacyPlan, "clip", defect)
    found = search(make_target(), adapters=2, seconds=60, seed=0, families=("sinks", "exploding"))
    assert found.ok == ok and (found.worst_change > 1.0) == (not ok)
    assert found.others_moved > 0, "a coupling too small for the bound is still seen"


def test_the_same_seed_tries_the_same_adapters_and_another_seed_others(make_target):
    target = make_target()
    before = target.model.read()
    first, again, other = (
        search(target, adapters=2, seconds=60, seed=seed, families=("exploding",)) for seed in (3, 3, 4)
    )
    assert first == again and first != other
    after = target.model.read()
    assert all(np.array_equal(before[name], after[name]) for name in before), "the model keeps its adapter"


def test_a_search_ends_in_time_and_tries_at_least_one(make_target):
    shown: list[int] = []
    found = search(make_target(), adapters=1000, seconds=1e-9, seed=0, progress=shown.append)
    assert found.adapters_tried == 1 and found.compositions_tried == 5 and shown == [1]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_adapter_is_one_that_a_bank_takes_and_another_than_the_start(make_target, family):
    target = make_target()
    spec, start = target.model.spec, target.start
    for size in (0.0, 0.5, 1.0):
        adapter = make_adapter(Attack(family, 0.9, size, 1.0, 7), spec, start, target.direction)
        assert {name: tensor.shape for name, tensor in adapter.items()} == spec.shapes()
        assert all(tensor.dtype == np.float32 and np.isfinite(tensor).all() for tensor in adapter.values())
        assert any(not np.array_equal(adapter[name], start[name]) for name in start)


def test_padding_is_told_from_text_that_was_not_seen_before():
    """What is learnt on one set of records works on another."""
    base = load_base_model(ModelSpec("tiny", device="cpu")).model
    model = AdaptedModel(base, LoraSettings(4, 8.0, MODULES, "B", last_layers=1))
    learnt, elsewhere = (Separators(model, ragged_records(seed=seed), CPU) for seed in (1, 2))
    (pair,) = [pair for pair in model.spec.pairs if "gate_proj" in pair.name]
    elsewhere(pair, PADDING)
    seen = elsewhere._seen
    assert seen is not None
    answers, padding = seen.inputs[pair.name] @ learnt(pair, PADDING), seen.triggers[PADDING]
    assert (answers[padding] > 0).mean() > 0.8 and (answers[~padding] < 0).mean() > 0.8


@pytest.mark.parametrize("seed", range(5))
def test_classes_that_a_plane_separates_are_separated(seed):
    rng = np.random.default_rng(seed)
    inputs, truth = rng.standard_normal((400, 12)), rng.standard_normal(12)
    side = inputs @ truth
    kept = np.abs(side) > 0.3
    found = separate(inputs[kept], side[kept] > 0)
    assert ((inputs[kept] @ found > 0) == (side[kept] > 0)).all()
    assert np.median((inputs[kept] @ found)[side[kept] > 0]) == pytest.approx(1)


def test_compositions_are_of_every_kind(make_target):
    pool = make_target().pool
    lengths = np.diff(pool.record_starts)
    for seed in range(20):
        longer, shorter, same, several, crowd = draw_compositions(pool, 8, np.random.default_rng(seed))
        width = {name: -(-int(lengths[kind.others[0][0]]) // 8) for name, kind in (("l", longer), ("s", shorter))}
        assert -(-int(lengths[longer.joining[0]]) // 8) > width["l"]
        assert -(-int(lengths[shorter.joining[0]]) // 8) < width["s"] or width["s"] == 1
        assert all(lengths[unit[0]] % 8 == 0 for unit in longer.others), "nobody is padded before the longer one joins"
        assert len({-(-int(lengths[unit[0]]) // 8) for unit in (*same.others, same.joining)}) == 1
        assert max(map(len, several.others)) > 1 and len(crowd.joining) == 4
        assert int(lengths.max()) == max(int(lengths[record]) for record in crowd.joining)
        assert {len(kind.others) for kind in (longer, shorter, same, several, crowd)} == {8}


def test_customers_of_a_composition_are_the_pools_records_in_this_order(make_target):
    pool = make_target().pool
    data, chosen = customers(pool, [(5,), (2, 7, 5)])
    assert [unit for unit, _ in chosen] == [0, 1] and [records.tolist() for _, records in chosen] == [[0], [0, 1, 2]]
    for number, record in enumerate((5, 2, 7, 5)):
        assert np.array_equal(data.record(number), pool.record(record))
        assert data.answer_offsets[number] == pool.answer_offsets[record]
    assert data.unit_starts.tolist() == [0, 1, 4]


def printed(capsys: Any) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(capsys.readouterr().out)
    return shown


@pytest.mark.parametrize("engine", ["direct", "opacus"])
def test_the_command_prints_one_object_and_ends_with_0_where_the_bound_holds(engine, capsys, tmp_path):
    words = ["--adapters", "2", "--others", "3", "--engine", engine, "--json", f"output={tmp_path / 'out'}"]
    assert main(["audit", "hostile", *words, "data.customers=80"]) == 0
    shown = printed(capsys)
    assert shown.keys() >= KEYS and shown["ok"] and shown["worst_change"] <= 1.0
    assert (shown["adapters_tried"], shown["engine"], shown["threads"]) == (2, engine, 1)
    assert [row["family"] for row in shown["families"]] == list(TRIGGERS[:2])
    assert json.loads((tmp_path / "out" / "audit.json").read_text("utf-8")) == shown


@pytest.mark.parametrize("as_json", [True, False])
def test_the_command_ends_with_3_where_customers_are_coupled(as_json, capsys, monkeypatch):
    monkeypatch.setattr(PrivacyPlan, "clip", counted_twice)
    assert main(["audit", "hostile", "--adapters", "1", "--others", "3", *(["--json"] if as_json else [])]) == 3
    if as_json:
        shown = printed(capsys)
        assert not shown["ok"] and shown["worst_change"] > 1.0
    else:
        assert "ONE CUSTOMER MOVED THE SUM BY" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--adapters 0", "--adapters of 1 or more, got 0."),
        ("--threads 0", "--threads of 1 or more, got 0."),
        ("--threads 9999", "--threads of at most 1024, got 9999."),
        ("--others 0", "--others of 1 or more, got 0."),
        ("--seconds 0", "--seconds above 0, got 0.0."),
        ("--seconds nan", "--seconds above 0, got nan."),
        ("--adapters 1 data.customers=5", "at least 20 customers to audit with, got 5."),
        ("--adapters 1 model=path model.path=/nowhere", "a model folder at /nowhere, got nothing."),
    ],
)
def test_what_cannot_be_audited_is_refused_in_words(words, says, capsys):
    assert main(["audit", "hostile", *words.split()]) == 2
    assert f"Expected {says}" in capsys.readouterr().err
