"""A bank charges what it executes, for any number of steps, and sends nothing where the two differ."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from asked_bank import request_for

from fedbank.adapter.lora import AdaptedModel
from fedbank.data.encode import EncodedUnits
from fedbank.errors import RunError
from fedbank.privacy.accounting import PrivacyEvent, compute_epsilon
from fedbank.privacy.budget import Budget, merge
from fedbank.privacy.clipping import ClippedSum
from fedbank.privacy.ledger import LEDGER, Ledger
from fedbank.privacy.noise import RandomStream
from fedbank.privacy.plan import PrivacyPlan, Sampling
from fedbank.training.local import LocalSettings
from fedbank_client.bank import Bank, Participation

MakeBank = Callable[..., tuple[Bank, list[RandomStream]]]


def _plan(steps: int, kind: type[PrivacyPlan] = PrivacyPlan) -> PrivacyPlan:
    return kind(Sampling(1e-12, 4.0, 3, steps), 1.0, 0.5, 1e-5, 1000.0)


@pytest.fixture
def make_bank(tmp_path: Path, model: AdaptedModel, make_units: Callable[..., EncodedUnits]) -> MakeBank:
    """A bank in a campaign of its own, and the streams that its rounds have used."""

    def make(plan: PrivacyPlan, steps: int, campaign: str = "spring") -> tuple[Bank, list[RandomStream]]:
        streams: list[RandomStream] = []

        def stream_of(number: int) -> RandomStream:
            streams.append(RandomStream.secure())
            return streams[-1]

        data, settings = make_units([1, 2, 1]), LocalSettings(steps, 0.05)
        bank = Bank(
            "bank-a",
            Participation(campaign, plan, settings),
            data,
            lambda: model,
            tmp_path,
            stream_for_round=stream_of,
            device=torch.device("cpu"),
            sync=False,
        )
        return bank, streams

    return make


@pytest.mark.parametrize("steps", [*range(1, 19), 24, 31, 32, 33, 40, 65])
def test_a_round_is_charged_with_the_steps_that_had_noise(
    make_bank: MakeBank, model: AdaptedModel, tmp_path: Path, steps: int
) -> None:
    plan = _plan(2 * steps)
    bank, streams = make_bank(plan, steps)
    for number in (1, 2):
        assert bank.train(request_for(model, number, plan=plan)).num_steps == steps
    charges = Ledger(tmp_path / LEDGER, "bank-a").charges()
    assert [charge.num_steps for charge in charges] == [len(stream.releases) for stream in streams] == [steps, steps]
    assert merge(charges) == (PrivacyEvent(1e-12, 1.0, 2 * steps),)
    assert Budget(None, None, 1e-5).spent(charges).steps == 2 * steps


@pytest.mark.parametrize("steps", range(1, 41))
def test_every_step_that_is_charged_is_in_the_epsilon(steps: int) -> None:
    """In the plan's event, its epsilon and the budget's: n + 1 steps never cost what n cost."""
    plan = PrivacyPlan(Sampling(0.2, 4.0, 3, 41), 1.0, 0.5, 1e-5, 1000.0)
    assert plan.event(steps) == PrivacyEvent(0.2, 1.0, steps)
    assert plan.epsilon(steps) == compute_epsilon([PrivacyEvent(0.2, 1.0, 1)] * steps, 1e-5)
    assert plan.epsilon(steps) + 0.005 < plan.epsilon(steps + 1)


@dataclass(frozen=True)
class _Miser(PrivacyPlan):
    """Charges at most eight steps."""

    def event(self, num_steps: int) -> PrivacyEvent:
        return super().event(min(8, num_steps))


@dataclass(frozen=True)
class _Eager(PrivacyPlan):
    """From the ninth step on, every release is made twice."""

    def release(self, total: ClippedSum, stream: RandomStream) -> tuple[torch.Tensor, ...]:
        if len(stream.releases) >= 8:
            super().release(total, stream)
        return super().release(total, stream)


@pytest.mark.parametrize("kind", [_Miser, _Eager])
@pytest.mark.parametrize("steps", [8, 9, 20])
def test_a_bank_that_executes_other_steps_than_it_charged_keeps_and_sends_nothing(
    make_bank: MakeBank, model: AdaptedModel, tmp_path: Path, kind: Any, steps: int
) -> None:
    plan = _plan(steps, kind)
    bank, streams = make_bank(plan, steps)
    if steps <= 8:
        assert bank.train(request_for(model, plan=plan)).num_steps == steps
        return
    with pytest.raises(RunError, match=r"Expected .* Nothing was sent"):
        bank.train(request_for(model, plan=plan))
    assert not list(tmp_path.glob("finished/*"))
    assert len(streams[0].releases) >= steps, "it was refused afterwards, and only its charge is left"
    assert len(Ledger(tmp_path / LEDGER, "bank-a").charges()) == 1
