"""A bank's side of a round: what it refuses, when it charges, what leaves, and what a crash costs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedbank.adapter.lora import AdaptedModel
from fedbank.adapter.state import digest, to_bytes
from fedbank.adapter.update import RoundRequest, Update
from fedbank.data.encode import EncodedUnits
from fedbank.errors import PrivacyError, UpdateError
from fedbank.privacy.accounting import PrivacyEvent, compute_epsilon
from fedbank.privacy.ledger import Ledger
from fedbank.privacy.noise import RandomStream
from fedbank.privacy.plan import PrivacyPlan, Sampling, UnprotectedPlan
from fedbank.training.local import LocalSettings
from fedbank_client.bank import Bank, Participation

ROUNDS, STEPS = 3, 2
SAMPLING = Sampling(0.5, 4.0, 3, ROUNDS * STEPS)
PLAN = PrivacyPlan.with_noise(SAMPLING, 1.2, 0.5, 1e-5)
Streams = Callable[[int], RandomStream]


def _derived(number: int) -> RandomStream:
    return RandomStream.derived("bank", number)


def _secure(number: int) -> RandomStream:
    return RandomStream.secure()


@pytest.fixture(scope="module")
def model(make_model: Callable[..., AdaptedModel]) -> AdaptedModel:
    return make_model("qwen3")


@pytest.fixture
def open_bank(
    tmp_path: Path, model: AdaptedModel, make_units: Callable[..., EncodedUnits]
) -> Callable[..., tuple[Bank, Ledger]]:
    """A bank and its ledger; opening it again is a restart."""

    def open_it(streams: Streams = _derived, plan: Any = PLAN, campaign: str = "spring") -> tuple[Bank, Ledger]:
        participation = Participation(campaign, plan, LocalSettings(STEPS, 0.05))
        bank = Bank(
            "bank-a",
            participation,
            make_units([1, 2, 5, 1, 3]),
            model,
            tmp_path,
            stream_for_round=streams,
            device=torch.device("cpu"),
        )
        return bank, Ledger(tmp_path / "ledger.jsonl")

    return open_it


def _request(model: AdaptedModel, number: int = 1, campaign: str = "spring", shift: float = 0.0) -> bytes:
    rng = np.random.default_rng(3)
    adapter = {n: (rng.normal(size=s) + shift).astype(np.float32) for n, s in model.spec.shapes().items()}
    return RoundRequest(campaign, number, adapter).to_bytes()


def test_an_update_answers_its_request(open_bank: Any, model: AdaptedModel) -> None:
    bank, ledger = open_bank()
    request = _request(model)
    update = Update.from_bytes(bank.train(request), model.spec)
    base = digest(RoundRequest.from_bytes(request, model.spec).adapter)
    assert (update.campaign, update.round, update.bank, update.num_steps) == ("spring", 1, "bank-a", STEPS)
    assert (update.base_digest, update.plan_digest) == (base, PLAN.digest())
    assert all(np.abs(tensor).max() > 0 for tensor in update.tensors.values())
    (charge,) = ledger.charges()
    assert (charge.sampling_prob, charge.noise_multiplier, charge.num_steps) == (0.5, 1.2, STEPS)
    assert (charge.campaign, charge.round, charge.plan_digest) == ("spring", 1, PLAN.digest())


def test_nothing_but_the_agreed_fields_leaves(open_bank: Any, model: AdaptedModel) -> None:
    bank, _ = open_bank()
    content = bank.train(_request(model))
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    fields = json.loads(header.pop("__metadata__")["fedbank"])
    assert header.keys() == set(model.spec.trainable_shapes())
    assert fields.keys() == {"kind", "campaign", "round", "bank", "base_digest", "plan_digest", "num_steps"}
    assert len(content) == 8 + int.from_bytes(content[:8], "little") + 4 * sum(p.numel() for p in model.parameters)


@pytest.mark.parametrize("streams", [_derived, _secure], ids=["derived", "secure"])
@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
def test_asking_twice_gives_the_same_bytes_and_one_charge(
    open_bank: Any, model: AdaptedModel, streams: Streams, restart: bool
) -> None:
    bank, ledger = open_bank(streams)
    first = bank.train(_request(model))
    if restart:
        bank, ledger = open_bank(streams)
    assert bank.train(_request(model)) == first
    assert len(ledger.charges()) == 1


REFUSED = {
    "other-campaign": (lambda model: _request(model, campaign="autumn"), UpdateError),
    "round-zero": (lambda model: _request(model, 0), PrivacyError),
    "round-negative": (lambda model: _request(model, -1), PrivacyError),
    "round-after-the-last": (lambda model: _request(model, ROUNDS + 1), PrivacyError),
    "round-huge": (lambda model: _request(model, 10**30), PrivacyError),
    "nonsense": (lambda model: b"train, please", UpdateError),
    "not-finite": (lambda model: _request(model, shift=np.nan), UpdateError),
    "update-instead": (lambda model: to_bytes(model.read(), {"kind": "update"}), UpdateError),
}


@pytest.mark.parametrize(("make", "error"), REFUSED.values(), ids=REFUSED.keys())
def test_what_was_not_agreed_is_refused_and_costs_nothing(
    open_bank: Any, model: AdaptedModel, tmp_path: Path, make: Callable[[AdaptedModel], bytes], error: type
) -> None:
    bank, ledger = open_bank()
    with pytest.raises(error, match="Expected"):
        bank.train(make(model))
    assert ledger.charges() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("streams", [_derived, _secure], ids=["derived", "secure"])
def test_the_charge_is_on_disk_before_anything_is_trained(
    open_bank: Any, model: AdaptedModel, streams: Streams
) -> None:
    """A forward pass that fails is a crash: the charge is there, an update is not."""
    bank, ledger = open_bank(streams)
    seen: list[int] = []

    def fail(*args: object) -> None:
        seen.append(len(ledger.charges()))
        raise MemoryError("the machine went away")

    handle = model.base.model.register_forward_pre_hook(fail)
    try:
        with pytest.raises(MemoryError):
            bank.train(_request(model))
    finally:
        handle.remove()
    assert seen == [1]
    assert len(ledger.charges()) == 1
    bank, ledger = open_bank(streams)
    Update.from_bytes(bank.train(_request(model)), model.spec)
    assert len(ledger.charges()) == (1 if streams is _derived else 2)


def test_rounds_are_charged_across_restarts(open_bank: Any, model: AdaptedModel) -> None:
    for number in range(1, ROUNDS + 1):
        bank, ledger = open_bank()
        bank.train(_request(model, number, shift=float(number)))
    charges = ledger.charges()
    assert [charge.round for charge in charges] == [1, 2, 3]
    events = [PrivacyEvent(c.sampling_prob, c.noise_multiplier, c.num_steps) for c in charges]
    assert compute_epsilon(events, PLAN.delta) == pytest.approx(PLAN.epsilon(), rel=1e-3)


def test_a_round_on_another_adapter_is_another_release(open_bank: Any, model: AdaptedModel) -> None:
    """The same noise on two different gradients would cancel in their difference; fresh noise is charged again."""
    bank, ledger = open_bank(_derived)
    bank.train(_request(model, 1))
    with pytest.raises(PrivacyError, match="no noise"):
        bank.train(_request(model, 1, shift=0.5))
    assert len(ledger.charges()) == 1
    bank, ledger = open_bank(_secure)
    bank.train(_request(model, 1, shift=0.5))
    assert len(ledger.charges()) == 2


def test_a_coordinator_cannot_make_a_bank_spend_more_than_its_plan(open_bank: Any, model: AdaptedModel) -> None:
    """Asking for one round again and again, each time from another adapter, must end when the budget does."""
    bank, ledger = open_bank(_secure)
    with pytest.raises(PrivacyError, match=r"Expected|would"):
        for attempt in range(ROUNDS + 1):
            bank.train(_request(model, 1, shift=float(attempt)))
    assert sum(charge.num_steps for charge in ledger.charges()) <= SAMPLING.num_steps


def test_a_campaign_that_changes_its_plan_is_refused(open_bank: Any, model: AdaptedModel) -> None:
    bank, _ = open_bank(_secure)
    bank.train(_request(model))
    bank, ledger = open_bank(_secure, plan=PrivacyPlan.with_noise(SAMPLING, 2.4, 0.5, 1e-5))
    with pytest.raises(PrivacyError, match="another plan"):
        bank.train(_request(model))
    assert len(ledger.charges()) == 1


def test_only_the_newest_update_is_kept(open_bank: Any, model: AdaptedModel, tmp_path: Path) -> None:
    bank, _ = open_bank()
    for number in (1, 2):
        bank.train(_request(model, number))
    kept = [path.name for path in (tmp_path / "finished").iterdir()]
    assert kept == ["round-00002.safetensors"]


def test_an_unprotected_campaign_charges_nothing(open_bank: Any, model: AdaptedModel) -> None:
    bank, ledger = open_bank(plan=UnprotectedPlan(SAMPLING))
    update = Update.from_bytes(bank.train(_request(model)), model.spec)
    assert ledger.charges() == []
    assert update.plan_digest == UnprotectedPlan(SAMPLING).digest()
