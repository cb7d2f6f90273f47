"""A call that was long on its way, or comes twice: the soak found that a bank paid for the same round again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedbank.adapter.update import RoundRequest
from fedbank.privacy.ledger import LEDGER, read_ledger
from fedbank.privacy.plan import PrivacyPlan, Sampling
from fedbank.training.local import LocalSettings
from fedbank_client.bank import Bank, Participation

PLAN = PrivacyPlan.with_noise(Sampling(0.5, 4.0, 1, 20), 1.2, 0.5, 1e-5)


@pytest.fixture
def train(make_model: Callable[..., Any], make_units: Callable[..., Any], tmp_path: Path) -> Callable[[int], bytes]:
    """A bank as it is deployed answers a round's call; every round begins with another adapter."""
    model = make_model()
    participation = Participation("spring", PLAN, LocalSettings(1, 0.05))
    units, device = make_units([2] * 8), torch.device("cpu")
    bank = Bank("bank-a", participation, units, lambda: model, tmp_path, device=device)
    shapes = model.spec.shapes()

    def answer(number: int) -> bytes:
        adapter = {name: np.full(shape, 0.01 * number, np.float32) for name, shape in shapes.items()}
        return bank.train(RoundRequest("spring", number, PLAN.digest(), adapter).to_bytes()).to_bytes()

    return answer


def test_a_call_of_the_round_before_is_answered_with_what_was_sent_and_costs_nothing(
    train: Callable[[int], bytes], tmp_path: Path
) -> None:
    first, second = train(1), train(2)
    assert (train(1), train(2)) == (first, second)
    assert [charge.round for charge in read_ledger(tmp_path / LEDGER).charges] == [1, 2]


def test_a_bank_that_missed_rounds_keeps_no_more_than_others(train: Callable[[int], bytes], tmp_path: Path) -> None:
    for number in (1, 3, 4, 7, 9):
        train(number)
    kept = sorted(path.stem[-5:] for path in (tmp_path / "finished").iterdir())
    assert kept == ["00007", "00009"]
