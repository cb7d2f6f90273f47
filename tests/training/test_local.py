"""One bank's round against an oracle that loops over customers; what no performance knob may change."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fedbank.adapter.lora import AdaptedModel, LoraSettings
from fedbank.adapter.state import initial_state
from fedbank.data.encode import EncodedUnits
from fedbank.privacy.noise import RandomStream
from fedbank.privacy.plan import PrivacyPlan, Sampling, UnprotectedPlan
from fedbank.training.local import LocalSettings, train_round

CPU = torch.device("cpu")
MakeModel = Callable[..., AdaptedModel]
BATCH = 6.5  # no sample has this size, so that no division by the actual size can hide
CUSTOMERS = [1, 2, 3, 20, 5, 1, 4, 2]
SGD = LocalSettings(1, 1.0, "sgd")
NO_NOISE = (
    0.7531  # a plan with this noise multiplier gets a silent stream: what is left is rounding to 2^-20 of the clip
)


class _SilentStream(RandomStream):
    """The same samples, and zeros for noise: a plan without noise cannot be made."""

    def normal(self, count: int) -> np.ndarray:
        return np.zeros(count)


@pytest.fixture(scope="module")
def data(make_units: Callable[..., EncodedUnits]) -> EncodedUnits:
    return make_units(CUSTOMERS)


def _plan(clip_norm: float = 1.0, noise: float = NO_NOISE, probability: float = 0.6, records: int = 3) -> PrivacyPlan:
    return PrivacyPlan.with_noise(Sampling(probability, BATCH, records, 10), noise, clip_norm, 1e-5)


def _round(model: AdaptedModel, data: EncodedUnits, plan: Any, settings: LocalSettings = SGD, **kwargs: Any) -> Any:
    start = kwargs.pop("start", None)
    if start is None:
        start = model.read()
    kind = _SilentStream if getattr(plan, "noise_multiplier", None) == NO_NOISE else RandomStream
    stream = kwargs.pop("stream", None) or kind.derived("round")
    return train_round(model, data, plan, settings, start, stream=stream, device=CPU)


def _flat(change: dict[str, Any]) -> np.ndarray:
    return np.concatenate([tensor.ravel() for tensor in change.values()]).astype(np.float64)


def _oracle(model: AdaptedModel, data: EncodedUnits, plan: PrivacyPlan) -> np.ndarray:
    """The clipped sum of one step over the same sample, one customer and one record at a time, in fp64."""
    total = np.zeros(sum(p.numel() for p in model.parameters))
    for unit, chosen in plan.sampling.draw(data.records_per_unit(), RandomStream.derived("round")):
        mean = np.zeros_like(total)
        for record in data.unit_starts[unit] + chosen:
            tokens = torch.from_numpy(data.record(record).astype(np.int64))[None]
            logits, first = model.base(input_ids=tokens).logits[0], int(data.answer_offsets[record])
            loss = torch.nn.functional.cross_entropy(logits[first - 1 : -1], tokens[0, first:])
            grads = torch.autograd.grad(loss, model.parameters)
            mean += torch.cat([grad.flatten() for grad in grads]).double().numpy() / len(chosen)
        total += mean * min(1.0, plan.clip_norm / np.linalg.norm(mean))
    return total


@pytest.mark.parametrize("trainable", ["B", "AB"])
@pytest.mark.parametrize("clip_norm", [0.1, 1.5, 1e3], ids=["all-clipped", "some-clipped", "none-clipped"])
def test_one_step_is_the_mean_over_records_then_one_clip_per_customer(
    make_model: MakeModel, data: EncodedUnits, trainable: str, clip_norm: float
) -> None:
    model, plan = make_model("qwen3", trainable), _plan(clip_norm)
    expected = -_oracle(model, data, plan) / plan.sampling.expected_batch_size
    got = _flat(_round(model, data, plan))
    rounding = clip_norm * 2.0**-20 * np.sqrt(len(got)) / BATCH
    assert np.linalg.norm(got - expected) <= 1e-5 * np.linalg.norm(expected) + rounding


def test_a_customer_with_twenty_records_moves_the_round_by_no_more_than_one_clip(
    make_model: MakeModel, data: EncodedUnits
) -> None:
    model, plan = make_model(), _plan(0.01, probability=1.0, records=20)
    three = [unit for unit in range(len(CUSTOMERS)) if unit != 3]
    records = [r for unit in three for r in range(data.unit_starts[unit], data.unit_starts[unit + 1])]
    without = EncodedUnits(
        np.concatenate([data.record(r) for r in records]),
        np.concatenate([[0], np.cumsum([len(data.record(r)) for r in records])]),
        data.answer_offsets[records],
        np.concatenate([[0], np.cumsum([CUSTOMERS[unit] for unit in three])]),
    )
    moved = np.linalg.norm(_flat(_round(model, data, plan)) - _flat(_round(model, without, plan)))
    assert 0.5 * 0.01 / BATCH < moved <= 0.01 / BATCH * 1.01


@pytest.mark.parametrize(
    "plan",
    [_plan(), _plan(0.05, 1.0), UnprotectedPlan(Sampling(0.6, BATCH, 3, 10))],
    ids=["no-noise", "noise", "unprotected"],
)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_micro_batch_changes_nothing(make_model: MakeModel, data: EncodedUnits, plan: Any, optimizer: str) -> None:
    model, start = make_model(), make_model().read()
    changes = [
        _flat(_round(model, data, plan, LocalSettings(3, 0.01, optimizer, micro_batch=size), start=start))
        for size in (1, 2, 7, 1000)
    ]
    for change in changes[1:]:
        assert np.linalg.norm(change - changes[0]) <= 2e-3 * np.linalg.norm(changes[0])
    assert np.linalg.norm(changes[0]) > 0


def test_an_empty_sample_is_noised_and_divided_by_the_public_batch_size(
    make_model: MakeModel, data: EncodedUnits
) -> None:
    """Both directions: the change has the std sigma C / B, and two thirds of it would be noticed."""
    plan = _plan(clip_norm=0.5, noise=2.0, probability=1e-12)
    change = _flat(_round(make_model(rank=6), data, plan))

    def plausible(values: np.ndarray) -> bool:
        return bool(abs(values.std() / (2.0 * 0.5 / BATCH) - 1) < 0.12 and abs(values.mean()) < 0.05)

    assert len(change) > 600
    assert plausible(change)
    assert not plausible(change * 2 / 3)


@pytest.mark.parametrize("probability", [1e-12, 0.5, 1.0], ids=["empty", "half", "all"])
def test_a_step_has_noise_once_whatever_the_sample(
    make_model: MakeModel, data: EncodedUnits, probability: float
) -> None:
    """The difference to the round without noise is one Gaussian of std sigma C / B, also over many micro-batches."""
    model, start = make_model(rank=6), make_model(rank=6).read()
    settings = dataclasses.replace(SGD, micro_batch=1)
    loud, still = _plan(0.5, 2.0, probability), _plan(0.5, NO_NOISE, probability)
    noise = _flat(_round(model, data, loud, settings, start=start)) - _flat(
        _round(model, data, still, settings, start=start)
    )
    assert abs(noise.std() / (2.0 * 0.5 / BATCH) - 1) < 0.12


def test_steps_continue_one_stream_and_one_adapter(make_model: MakeModel, data: EncodedUnits) -> None:
    model, plan = make_model(), _plan(0.3, 0.5)
    start = model.read()
    both = _round(model, data, plan, LocalSettings(2, 0.1, "sgd"), start=start)
    stream, one = RandomStream.derived("round"), LocalSettings(1, 0.1, "sgd")
    first = _round(model, data, plan, one, start=start, stream=stream)
    between = start | {name: start[name] + change for name, change in first.items()}
    second = _round(model, data, plan, one, start=between, stream=stream)
    np.testing.assert_allclose(_flat(both), _flat(first) + _flat(second), rtol=1e-3, atol=1e-6)
    assert np.linalg.norm(_flat(second)) > 0


def test_the_first_adam_step_has_the_length_of_the_learning_rate(make_model: MakeModel, data: EncodedUnits) -> None:
    change = _flat(_round(make_model(), data, _plan(0.5, 1.0), LocalSettings(1, 0.003, "adam")))
    np.testing.assert_allclose(np.abs(change), 0.003, rtol=2e-3)


def test_momentum_is_used(make_model: MakeModel, data: EncodedUnits) -> None:
    model, plan, start = make_model(), _plan(0.1, 1.0, 1e-12), make_model().read()
    plain = _round(model, data, plan, LocalSettings(2, 0.1, "sgd"), start=start)
    heavy = _round(model, data, plan, LocalSettings(2, 0.1, "sgd", momentum=1.0), start=start)
    first = _round(model, data, plan, LocalSettings(1, 0.1, "sgd"), start=start)
    np.testing.assert_allclose(_flat(heavy), _flat(plain) + _flat(first), rtol=1e-3, atol=1e-6)


def test_a_round_repeats_with_its_stream_and_differs_with_another(make_model: MakeModel, data: EncodedUnits) -> None:
    model, start = make_model(), make_model().read()
    first = _flat(_round(model, data, _plan(noise=1.0), start=start))
    assert np.array_equal(_flat(_round(model, data, _plan(noise=1.0), start=start)), first)
    other = _round(model, data, _plan(noise=1.0), start=start, stream=RandomStream.derived("other"))
    assert not np.array_equal(_flat(other), first)


def test_training_starts_from_the_given_adapter_whatever_was_loaded(
    make_model: MakeModel, make_state: Callable[..., Any], data: EncodedUnits
) -> None:
    model, start = make_model(), make_model().read()
    first = _flat(_round(model, data, _plan(), start=start))
    model.write(make_state(model.spec, 99))
    assert np.array_equal(_flat(_round(model, data, _plan(), start=start)), first)


@pytest.mark.parametrize("trainable", ["B", "AB"])
def test_only_the_adapter_moves_and_only_its_trainable_part(
    make_model: MakeModel, data: EncodedUnits, trainable: str
) -> None:
    model = make_model("qwen2", trainable)
    before = {name: parameter.detach().clone() for name, parameter in model.peft_model.named_parameters()}
    change = _round(model, data, _plan(noise=1.0), LocalSettings(2, 0.1))
    assert list(change) == list(model.spec.trainable_shapes())
    for name, parameter in model.peft_model.named_parameters():
        moved = ("lora_B" in name) or (trainable == "AB" and "lora_A" in name)
        assert torch.equal(parameter, before[name]) is not moved, name
        assert parameter.grad is None
    assert all(tensor.dtype == np.float32 and tensor.any() for tensor in change.values())


@pytest.mark.parametrize("reentrant", [False, True], ids=["non-reentrant", "reentrant"])
def test_checkpointing_recomputes_and_changes_nothing(
    make_model: MakeModel, data: EncodedUnits, reentrant: bool
) -> None:
    """A layer's forward runs again in the backward pass (else no memory is saved), and the round is the same."""
    plan, settings, forwards, changes = _plan(noise=1.0, probability=1.0), dataclasses.replace(SGD), [], []
    for checkpointing in (False, True):
        model, count = make_model(), [0]
        if checkpointing:
            model.base.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.base.enable_input_require_grads()
        model.base.model.layers[1].input_layernorm.register_forward_hook(
            lambda *args, count=count: count.__setitem__(0, count[0] + 1)
        )
        changes.append(_flat(_round(model, data, plan, settings)))
        forwards.append(count[0])
        assert not model.base.training
    assert forwards[1] == 2 * forwards[0] > 0  # trials of batches included
    assert np.linalg.norm(changes[1] - changes[0]) <= 1e-4 * np.linalg.norm(changes[0])


def test_only_the_last_layers_can_be_trained(make_base: Any, data: EncodedUnits) -> None:
    model = AdaptedModel(make_base(), LoraSettings(3, 6.0, ("q_proj",), "AB", last_layers=1))
    model.write(initial_state(model.spec, seed=0))
    change = _round(model, data, _plan(noise=1.0))
    assert {name.split(".layers.")[1][0] for name in change} == {"1"}
    assert all(tensor.any() for tensor in change.values())
