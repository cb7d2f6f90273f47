"""A bank's side of a round: what it refuses, when it charges, and what leaves."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asked_bank import KEPT, PLAN, ROUNDS, SAMPLING, STEPS, Streams, derived, request_for, secure

from fedbank.adapter.lora import AdaptedModel
from fedbank.adapter.state import digest, to_bytes
from fedbank.adapter.update import RoundRequest
from fedbank.errors import PrivacyError, RunError, UpdateError
from fedbank.privacy.accounting import PrivacyEvent, compute_epsilon
from fedbank.privacy.budget import Budget
from fedbank.privacy.plan import PrivacyPlan, UnprotectedPlan


def test_an_update_answers_its_request(open_bank: Any, model: AdaptedModel) -> None:
    bank, ledger = open_bank()
    request = request_for(model)
    update = bank.train(request)
    base = digest(RoundRequest.from_bytes(request, model.spec).adapter)
    assert (update.campaign, update.round, update.bank, update.num_steps) == ("spring", 1, "bank-a", STEPS)
    assert (update.base_digest, update.plan_digest) == (base, PLAN.digest())
    assert all(np.abs(tensor).max() > 0 for tensor in update.tensors.values())
    (charge,) = ledger.charges()
    assert (charge.sampling_prob, charge.noise_multiplier, charge.num_steps) == (0.5, 1.2, STEPS)
    assert (charge.campaign, charge.round, charge.plan_digest) == ("spring", 1, PLAN.digest())
    assert charge.unit == "customer"


def test_nothing_but_the_agreed_fields_leaves(open_bank: Any, model: AdaptedModel) -> None:
    bank, _ = open_bank()
    content = bank.train(request_for(model)).to_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    fields = json.loads(header.pop("__metadata__")["fedbank"])
    assert header.keys() == set(model.spec.trainable_shapes())
    agreed = {"kind", "campaign", "round", "bank", "base_digest", "plan_digest", "num_steps"}
    assert fields.keys() == agreed | {"head"}, "the head of the ledger leaves too, so that a copy of it is noticed"
    assert len(content) == 8 + int.from_bytes(content[:8], "little") + 4 * sum(p.numel() for p in model.parameters)


@pytest.mark.parametrize("streams", [derived, secure, KEPT], ids=["derived", "secure", "kept"])
@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
def test_asking_twice_gives_the_same_bytes_and_one_charge(
    open_bank: Any, model: AdaptedModel, streams: Streams, restart: bool
) -> None:
    bank, ledger = open_bank(streams)
    first = bank.train(request_for(model)).to_bytes()
    if restart:
        bank, ledger = open_bank(streams)
    assert bank.train(request_for(model)).to_bytes() == first
    assert len(ledger.charges()) == 1


OTHER_PLAN = PrivacyPlan.with_noise(SAMPLING, 1.1, 0.5, 1e-5)
REFUSED = {
    "other-plan": (
        lambda model: request_for(model, plan=PrivacyPlan.with_noise(SAMPLING, 1.1, 0.5, 1e-5)),
        UpdateError,
    ),
    "other-campaign": (lambda model: request_for(model, campaign="autumn"), UpdateError),
    "round-zero": (lambda model: request_for(model, 0), PrivacyError),
    "round-negative": (lambda model: request_for(model, -1), PrivacyError),
    "round-after-the-last": (lambda model: request_for(model, ROUNDS + 1), PrivacyError),
    "round-huge": (lambda model: request_for(model, 10**18), PrivacyError),
    "round-of-more-than-63-bits": (lambda model: request_for(model, 10**30), UpdateError),
    "nonsense": (lambda model: b"train, please", UpdateError),
    "not-finite": (lambda model: request_for(model, shift=np.nan), UpdateError),
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


def test_rounds_are_charged_across_restarts(open_bank: Any, model: AdaptedModel) -> None:
    for number in range(1, ROUNDS + 1):
        bank, ledger = open_bank()
        bank.train(request_for(model, number, shift=float(number)))
    charges = ledger.charges()
    assert [charge.round for charge in charges] == [1, 2, 3]
    events = [PrivacyEvent(c.sampling_prob, c.noise_multiplier, c.num_steps) for c in charges]
    assert compute_epsilon(events, PLAN.delta) == pytest.approx(PLAN.epsilon(), rel=1e-3)


def test_a_round_on_another_adapter_is_another_release(open_bank: Any, model: AdaptedModel) -> None:
    """The same noise on two different gradients would cancel in their difference; fresh noise is charged again."""
    bank, ledger = open_bank(derived)
    bank.train(request_for(model, 1))
    with pytest.raises(PrivacyError, match="no noise"):
        bank.train(request_for(model, 1, shift=0.5))
    assert len(ledger.charges()) == 1
    bank, ledger = open_bank(secure)
    bank.train(request_for(model, 1, shift=0.5))
    assert len(ledger.charges()) == 2


def test_a_coordinator_cannot_make_a_bank_spend_more_than_its_plan(open_bank: Any, model: AdaptedModel) -> None:
    """Asking for one round again and again, each time from another adapter, must end when the budget does."""
    bank, ledger = open_bank(secure)
    with pytest.raises(PrivacyError, match=r"Expected|would"):
        for attempt in range(ROUNDS + 1):
            bank.train(request_for(model, 1, shift=float(attempt)))
    assert sum(charge.num_steps for charge in ledger.charges()) <= SAMPLING.num_steps


def test_a_campaign_that_changes_its_plan_is_refused(open_bank: Any, model: AdaptedModel) -> None:
    bank, _ = open_bank(secure)
    bank.train(request_for(model))
    other = PrivacyPlan.with_noise(SAMPLING, 2.4, 0.5, 1e-5)
    bank, ledger = open_bank(secure, plan=other)
    with pytest.raises(PrivacyError, match="another plan"):
        bank.train(request_for(model, plan=other))
    assert len(ledger.charges()) == 1


def test_the_newest_update_and_the_one_before_are_kept(open_bank: Any, model: AdaptedModel, tmp_path: Path) -> None:
    bank, _ = open_bank()
    for number in (1, 2, 3):
        bank.train(request_for(model, number))
    kept = [path.name for path in (tmp_path / "finished").iterdir()]
    assert sorted(name[64:] for name in kept) == ["-round-00002.safetensors", "-round-00003.safetensors"]


def test_an_unprotected_campaign_charges_nothing(open_bank: Any, model: AdaptedModel) -> None:
    bank, ledger = open_bank(plan=UnprotectedPlan(SAMPLING))
    update = bank.train(request_for(model, plan=UnprotectedPlan(SAMPLING)))
    assert ledger.charges() == []
    assert update.plan_digest == UnprotectedPlan(SAMPLING).digest()


def test_a_round_that_would_pass_the_banks_budget_is_refused_and_costs_nothing(
    open_bank: Any, model: AdaptedModel
) -> None:
    """The bank's own limit, over all campaigns, holds whatever the plan of a campaign would permit."""
    one, two = (compute_epsilon([PLAN.event(rounds * STEPS)], 1e-5) for rounds in (1, 2))
    budget = Budget((one + two) / 2, None, 1e-5)
    bank, ledger = open_bank(secure, budget=budget)
    bank.train(request_for(model))
    bank.train(request_for(model))  # asked again: sent again
    for campaign, number in (("spring", 2), ("autumn", 1)):
        bank, ledger = open_bank(secure, campaign=campaign, budget=budget)
        with pytest.raises(PrivacyError, match=r"limit of epsilon .* nothing was sent"):
            bank.train(request_for(model, number, campaign))
    assert len(ledger.charges()) == 1


def test_campaigns_that_run_side_by_side_do_not_touch_each_others_updates(open_bank: Any, model: AdaptedModel) -> None:
    names = ("spring", "../autumn", "x" * 300)
    sent = {
        name: open_bank(secure, campaign=name)[0].train(request_for(model, campaign=name)).to_bytes() for name in names
    }
    again = {
        name: open_bank(secure, campaign=name)[0].train(request_for(model, campaign=name)).to_bytes() for name in names
    }
    assert again == sent
    assert len(open_bank()[1].charges()) == 3


def test_an_update_without_privacy_needs_no_charge(open_bank: Any, model: AdaptedModel) -> None:
    plain = UnprotectedPlan(SAMPLING)
    bank, _ = open_bank(plan=plain)
    bank.train(request_for(model, plan=plain))
    bank, ledger = open_bank(campaign="autumn")
    bank.train(request_for(model, campaign="autumn"))
    assert len(ledger.charges()) == 1


def test_an_update_that_moves_nothing_is_not_kept_or_sent_and_its_charge_stands_once(
    open_bank: Any, model: AdaptedModel, tmp_path: Path
) -> None:
    """Pitfall 12: noise moves every weight, so nothing having moved means that something else was trained."""
    for _ in range(2):
        bank, ledger = open_bank(derived, rate=0.0)
        with pytest.raises(RunError, match="move the adapter"):
            bank.train(request_for(model))
        assert len(ledger.charges()) == 1
    assert not (tmp_path / "finished").exists()
