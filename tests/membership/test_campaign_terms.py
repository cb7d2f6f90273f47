"""A campaign keeps to the consortium's terms, before any bank is asked."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from fedbank.aggregation.norms import adam_norm_bound, sgd_norm_bound
from fedbank.config import load_campaign, load_simulate, to_yaml
from fedbank.consent import Consent, read_acceptance
from fedbank.errors import FedBankError
from fedbank.model.folder import base_digest, tiny_folder
from fedbank.privacy.numbers import PlanNumbers
from fedbank.privacy.plan import PrivacyPlan
from fedbank.privacy.sampling import Sampling, declared_size
from fedbank.proposal import Acceptance
from fedbank_server.consortium import Files
from fedbank_server.run import Prepared, campaign_terms, prepare
from fedbank_simulations.campaigns import FEDERATED, make_terms
from fedbank_simulations.resident import resident

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


def consents(prepared: Prepared, sizes: dict[str, int], *, private: bool = True) -> dict[str, Consent]:
    """As banks of those sizes accept, each with a plan of its own."""
    found = {}
    for bank, size in sizes.items():
        sampling = Sampling(32 / size, 32.0, 1, 10)
        plan = PlanNumbers.with_noise(sampling, 400 / size, 0.2, 1e-5) if private else None
        digest = plan.digest() if plan is not None else "d" * 64
        epsilon = 8.0 if private else None
        found[bank] = Consent(Acceptance(bank, prepared.proposal.campaign, digest, "", size, epsilon), plan)
    return found


def test_the_terms_of_the_rounds_follow_from_proposal_consortium_and_acceptances(coordinator: Path) -> None:
    overrides = ["training.optimizer=adam", "training.learning_rate=0.01", "aggregation.weights=declared", "attempts=5"]
    prepared = prepare(coordinator, load_campaign(overrides))
    accepted = consents(prepared, {"bank-a": 1200, "bank-b": 300})
    terms = campaign_terms(prepared, accepted, "r" * 64)
    assert terms.weights == {"bank-a": 1200.0, "bank-b": 300.0}
    assert terms.plans == {bank: found.acceptance.plan_digest for bank, found in accepted.items()}
    assert (terms.quorum, terms.max_attempts, terms.roster_digest) == (2, 5, "r" * 64)
    assert terms.deadline is not None and terms.deadline.floor_s == 120
    longest = adam_norm_bound(prepared.spec.num_trainable(), 5, 0.01)
    assert terms.norm_bounds == {"bank-a": longest, "bank-b": longest}


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_without_privacy_only_adam_has_a_tight_bound_but_none_is_without(coordinator: Path, optimizer: str) -> None:
    """One finite update of 1e38 would overflow the average for good."""
    prepared = prepare(coordinator, load_campaign(["privacy=off", f"training.optimizer={optimizer}"]))
    terms = campaign_terms(prepared, consents(prepared, {"bank-a": 1200}, private=False), "r" * 64)
    assert (terms.max_norm("bank-a") == 1e4) == (optimizer == "sgd")
    assert terms.max_norm("bank-a") <= 1e4


def test_the_norm_bound_of_a_bank_is_that_of_its_own_plan_whoever_else_takes_part(coordinator: Path) -> None:
    """A bank with much noise is allowed longer updates; that allows nothing to the others."""
    words = ["training.optimizer=sgd", "training.learning_rate=2.0", "training.local_steps=5"]
    prepared = prepare(coordinator, load_campaign(words))
    both = consents(prepared, {"bank-a": 1200, "bank-b": 300})
    bounds = campaign_terms(prepared, both, "r" * 64).norm_bounds
    for bank, noise in (("bank-a", 400 / 1200), ("bank-b", 400 / 300)):
        alone = campaign_terms(prepared, {bank: both[bank]}, "r" * 64)
        wanted = sgd_norm_bound(
            prepared.spec.num_trainable(), 5, 2.0, 0.0, clip_norm=0.2, noise_multiplier=noise, expected_batch=32.0
        )
        assert alone.norm_bounds[bank] == bounds[bank] == pytest.approx(wanted)
    assert bounds["bank-b"] > 1.9 * bounds["bank-a"]


def test_a_simulation_has_the_norm_bounds_of_a_deployment(coordinator: Path) -> None:
    """The same banks, sizes and terms: what one refuses, the other refuses."""
    words = ["training.optimizer=sgd", "training.rounds=2", "training.expected_batch=16", "privacy.epsilon=8"]
    home = resident(to_yaml(load_simulate([*words, "data.customers=600", "banks=2", "partition.size_exponent=1"])))
    members, prepared = home.members(FEDERATED), prepare(coordinator, load_campaign(words))
    simulated = make_terms(FEDERATED, home.config, home.model.spec, members)
    accepted = {}
    for bank, member in members.items():
        assert isinstance(member.plan, PrivacyPlan)
        size, plan = declared_size(member.data.num_units), member.plan
        said = Acceptance(bank, prepared.proposal.campaign, plan.digest(), plan.to_json(), size, 8.0)
        accepted[bank] = read_acceptance(said.to_bytes(), bank, prepared.proposal)
    deployed = campaign_terms(prepared, accepted, "r" * 64)
    assert dict(simulated.norm_bounds) == dict(deployed.norm_bounds)
    assert len(set(deployed.norm_bounds.values())) == 2, "banks of unequal sizes"
