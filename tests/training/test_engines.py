"""What each engine covers, what is refused before a round starts, and that Opacus leaves nothing behind."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedbank.adapter.lora import AdaptedModel
from fedbank.data.encode import EncodedUnits
from fedbank.errors import ConfigError, ModelError, RunError
from fedbank.model.loading import enable_checkpointing
from fedbank.training.batches import collate
from fedbank.training.engines import ENGINES, check_engine, unit_gradients
from fedbank.training.loss import record_losses
from fedbank.training.per_example import RecordGroups

CPU = torch.device("cpu")
MakeModel = Callable[..., AdaptedModel]
MakeUnits = Callable[..., EncodedUnits]


def _take(model: AdaptedModel, data: EncodedUnits, engine: str, groups: RecordGroups | None = None) -> list[Tensor]:
    batch = collate(data, range(data.num_records), [1.0] * data.num_records, CPU)
    with unit_gradients(model, engine) as gradients:
        if groups is not None:
            gradients.begin(groups)
        record_losses(model.base, batch).sum().backward()
        return gradients.take()


@pytest.mark.parametrize("engine", ENGINES)
def test_records_are_summed_over_their_units(make_model: MakeModel, make_units: MakeUnits, engine: str) -> None:
    data, model = make_units([1] * 6), make_model("qwen2", "AB")
    alone = _take(model, data, engine)
    for units in [(0, 0, 0, 1, 1, 1), (0, 1, 1, 2, 2, 2), (0, 0, 0, 0, 0, 0), (0, 1, 2, 3, 4, 5)]:
        groups = RecordGroups(units, units[-1] + 1)
        for grad_UP, grad_NP in zip(_take(model, data, engine, groups), alone, strict=True):
            expected = torch.stack([grad_NP[torch.tensor(units) == unit].sum(0) for unit in range(units[-1] + 1)])
            assert grad_UP.shape == expected.shape
            assert grad_UP.is_contiguous()
            torch.testing.assert_close(grad_UP, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_wrong_number_of_records_is_refused(make_model: MakeModel, make_units: MakeUnits, engine: str) -> None:
    with pytest.raises(ValueError, match="per-record gradients need"):
        _take(make_model(), make_units([1] * 4), engine, RecordGroups((0, 1, 2), 3))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_layer_that_does_not_run_stops_the_step(make_model: MakeModel, make_units: MakeUnits, engine: str) -> None:
    model = make_model()
    model.base.model.layers[1].forward = lambda hidden, *args, **kwargs: hidden
    with pytest.raises(RunError, match=r"no gradient for .*layers\.1\."):
        _take(model, make_units([1] * 2), engine)


def _unfreeze(model: AdaptedModel, name: str) -> None:
    parameter = dict(model.peft_model.named_parameters())[name].requires_grad_()
    model.parameters = (*model.parameters, parameter)


NORM = "base_model.model.model.layers.0.input_layernorm.weight"
BIAS = "base_model.model.model.layers.1.self_attn.k_proj.bias"


@pytest.mark.parametrize("name", [NORM, BIAS], ids=["norm", "bias"])
def test_a_parameter_that_only_opacus_covers_is_refused_by_the_direct_path(make_model: MakeModel, name: str) -> None:
    model = make_model("qwen2")
    _unfreeze(model, name)
    with pytest.raises(ModelError, match=r"(norm\.weight|bias), for which .*direct has none.*opacus"):
        check_engine(model, "direct")
    check_engine(model, "opacus")


@pytest.mark.parametrize("name", [NORM, BIAS], ids=["norm", "bias"])
def test_opacus_is_exact_for_what_the_direct_path_does_not_cover(
    make_model: MakeModel, make_units: MakeUnits, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, model = make_units([1] * 4), make_model("qwen2", "AB")
    _unfreeze(model, name)
    names = [*model.spec.trainable_shapes(), name]
    monkeypatch.setattr(type(model.spec), "trainable_shapes", lambda spec: dict.fromkeys(names, ()))
    grads = _take(model, data, "opacus")
    for record in range(4):
        tokens = torch.from_numpy(data.record(record).astype(np.int64))[None]
        logits, first = model.base(input_ids=tokens).logits[0], int(data.answer_offsets[record])
        loss = nn.functional.cross_entropy(logits[first - 1 : -1], tokens[0, first:])
        for grad_NP, expected in zip(grads, torch.autograd.grad(loss, model.parameters), strict=True):
            assert float((grad_NP[record] - expected).norm()) <= 1e-5 * float(expected.norm()) + 1e-7


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("part", ["lm_head", "a parameter of the model itself"])
def test_a_parameter_that_neither_covers_is_refused_by_name(make_model: MakeModel, engine: str, part: str) -> None:
    model = make_model()
    if part == "lm_head":
        model.base.lm_head.weight.requires_grad_()
    else:
        model.base.model.register_parameter("prompt", nn.Parameter(torch.zeros(3)))
    with pytest.raises(ModelError, match=rf"(embed_tokens\.weight|prompt), for which .*{engine} has none"):
        check_engine(model, engine)


def test_opacus_is_refused_where_it_fails(make_model: MakeModel, make_units: MakeUnits) -> None:
    model = make_model()
    enable_checkpointing(model.base, "non-reentrant")
    check_engine(model, "direct")
    with pytest.raises(ModelError, match="non-reentrant"), unit_gradients(model, "opacus"):
        pass


def test_an_unknown_engine_is_a_plain_error(make_model: MakeModel) -> None:
    with pytest.raises(ConfigError, match="direct or opacus, got 'ghost'"):
        check_engine(make_model(), "ghost")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(make_model: MakeModel, make_units: MakeUnits, engine: str, fails: bool) -> None:
    model = make_model()

    def state() -> Any:
        modules = [
            (name, sorted(vars(m)), len(m._forward_hooks), len(m._backward_hooks), m.training)
            for name, m in model.peft_model.named_modules()
        ]
        return modules, [sorted(vars(p)) for p in model.parameters], [p.grad is None for p in model.parameters]

    with unit_gradients(model, engine):  # Opacus registers its rules, torch its hook dictionaries
        pass
    before = state()
    if fails:
        with pytest.raises(KeyError), unit_gradients(model, engine):
            record_losses(model.base, collate(make_units([1]), [0], [1.0], CPU)).sum().backward()
            raise KeyError
    else:
        _take(model, make_units([1] * 2), engine)
    assert state() == before


def test_opacus_is_imported_when_it_is_asked_for_and_not_before() -> None:
    script = "import sys, fedbank.training.local; sys.exit('opacus' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
