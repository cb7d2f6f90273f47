"""A campaign keeps to the consortium's terms, before any bank is asked."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from fedbank.aggregation.norms import adam_norm_bound
from fedbank.config import load_campaign
from fedbank.errors import ConfigError, FedBankError
from fedbank.model.folder import base_digest, tiny_folder
from fedbank.proposal import Acceptance
from fedbank_server.consortium import Files
from fedbank_server.run import campaign_terms, prepare

SOUND = '{"clip_norm": 0.2, "noise_multiplier": 1, "sampling": {"expected_batch_size": 32}}'
PLAN = "plan:\n  target_epsilon: {epsilon}\n  delta: {delta}\n  unit: customer\n"


@pytest.fixture
def agree(coordinator: Path) -> Callable[..., None]:
    """Write other terms into consortium.yaml."""

    def write(epsilon: float = 8.0, delta: float = 1e-5, digest: str = "null") -> None:
        path = Files(coordinator).settings
        text = re.sub(r"(?m)^base_model_digest: .*$", f"base_model_digest: {digest}", path.read_text("utf-8"))
        path.write_text(text[: text.index("plan:")] + PLAN.format(epsilon=epsilon, delta=delta), "utf-8")

    return write


def test_a_campaign_within_the_terms_can_be_run(coordinator: Path, agree: Callable[..., None]) -> None:
    agree(digest=base_digest(tiny_folder()))
    prepared = prepare(coordinator, load_campaign(["privacy.epsilon=3", "privacy.delta=1e-6"]))
    assert prepared.proposal.terms.privacy.epsilon == 3


@pytest.mark.parametrize(
    ("overrides", "digest", "match"),
    [
        (["privacy.epsilon=8.5", "privacy.delta=1e-6"], "null", r"privacy\.epsilon of at most 8\.0"),
        (["privacy=off"], "null", r"privacy\.epsilon of at most 8\.0, as in consortium\.yaml, got None"),
        (["privacy.delta=1e-4"], "null", r"privacy\.delta of at most 1e-05"),
        ([], "null", r"privacy\.delta of at most 1e-05, as in consortium\.yaml, got None"),
        (["privacy.delta=1e-6", "privacy.unit=record"], "null", r"privacy\.unit=customer"),
        (["privacy.delta=1e-6"], "ab" * 32, "the consortium's base model abab"),
        (["privacy.delta=1e-6", "model=qwen2_5_7b"], "null", "model=tiny or model=path"),
        (["privacy.delta=1e-6", "adapter.rank=500"], "null", r"adapter\.rank of at most"),
    ],
)
def test_a_campaign_outside_the_terms_is_refused(
    coordinator: Path, agree: Callable[..., None], overrides: list[str], digest: str, match: str
) -> None:
    agree(digest=digest)
    with pytest.raises(FedBankError, match=match):
        prepare(coordinator, load_campaign(overrides))


def test_the_terms_of_the_rounds_follow_from_proposal_consortium_and_acceptances(coordinator: Path) -> None:
    overrides = ["training.optimizer=adam", "training.learning_rate=0.01", "aggregation.weights=declared", "attempts=5"]
    prepared = prepare(coordinator, load_campaign(overrides))
    accepted = {
        bank: Acceptance(bank, prepared.proposal.campaign, "d" * 64, SOUND, size, 8.0)
        for bank, size in (("bank-a", 1200), ("bank-b", 300))
    }
    terms = campaign_terms(prepared, accepted, "r" * 64)
    assert terms.weights == {"bank-a": 1200.0, "bank-b": 300.0}
    assert (terms.quorum, terms.max_attempts, terms.roster_digest) == (2, 5, "r" * 64)
    assert terms.deadline is not None and terms.deadline.floor_s == 120
    assert terms.max_update_norm == adam_norm_bound(prepared.spec.num_trainable(), 5, 0.01)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_without_privacy_only_adam_has_a_bound(coordinator: Path, optimizer: str) -> None:
    prepared = prepare(coordinator, load_campaign(["privacy=off", f"training.optimizer={optimizer}"]))
    accepted = {"bank-a": Acceptance("bank-a", prepared.proposal.campaign, "d" * 64, "", 1200, None)}
    assert math.isinf(campaign_terms(prepared, accepted, "r" * 64).max_update_norm) == (optimizer == "sgd")


def test_a_bank_without_a_readable_plan_cannot_set_the_bound(coordinator: Path) -> None:
    prepared = prepare(coordinator, load_campaign([]))
    accepted = {"bank-a": Acceptance("bank-a", prepared.proposal.campaign, "d" * 64, "[]", 1200, 8.0)}
    with pytest.raises(FedBankError, match="a plan from bank-a"):
        campaign_terms(prepared, accepted, "r" * 64)


def test_a_plan_that_claims_nonsense_cannot_lift_the_bound(coordinator: Path) -> None:
    prepared = prepare(coordinator, load_campaign([]))
    plan = '{"clip_norm": 1e300, "noise_multiplier": 1, "sampling": {"expected_batch_size": 1}}'
    accepted = {"bank-a": Acceptance("bank-a", prepared.proposal.campaign, "d" * 64, plan, 1200, 8.0)}
    with pytest.raises(ConfigError, match="clip norm"):
        campaign_terms(prepared, accepted, "r" * 64)
