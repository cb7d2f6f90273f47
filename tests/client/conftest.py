"""A bank on the tests' own very small model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from asked_bank import PLAN, STEPS, Streams, derived

from fedbank.adapter.lora import AdaptedModel
from fedbank.data.encode import EncodedUnits
from fedbank.privacy.budget import Budget
from fedbank.privacy.ledger import Ledger
from fedbank.training.local import LocalSettings
from fedbank.training.unit_engine import unit_engine
from fedbank_client.bank import Bank, Participation


@pytest.fixture(scope="module")
def model(make_model: Callable[..., AdaptedModel]) -> AdaptedModel:
    made = make_model("qwen3")
    with unit_engine(made, "direct", torch.device("cpu"), None):
        pass  # its twin is copied now, before a test hangs failures on the model
    return made


@pytest.fixture
def open_bank(
    tmp_path: Path, model: AdaptedModel, make_units: Callable[..., EncodedUnits]
) -> Callable[..., tuple[Bank, Ledger]]:
    """A bank and its ledger; opening it again is a restart."""

    def open_it(
        streams: Streams | None = derived,
        plan: Any = PLAN,
        campaign: str = "spring",
        budget: Budget | None = None,
        rate: float = 0.05,
        **options: Any,
    ) -> tuple[Bank, Ledger]:
        participation = Participation(campaign, plan, LocalSettings(STEPS, rate))
        bank = Bank(
            "bank-a",
            participation,
            make_units([1, 2, 5, 1, 3]),
            lambda: model,
            tmp_path,
            stream_for_round=streams,
            device=torch.device("cpu"),
            budget=budget,
            **options,
        )
        return bank, Ledger(tmp_path / "ledger.jsonl", "bank-a")

    return open_it
