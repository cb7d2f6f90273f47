"""An acceptance counts if it says what follows from the terms and the declared size, and nothing else."""

import subprocess
import sys
from dataclasses import replace

import pytest
from acceptances import LIES, NOISE, NUMBERS, SIZE, TERMS, Lie, acceptance, digest, honest, larger, plan_file, written

from fedbank.config import load_campaign
from fedbank.consent import agreed_sampling, check_acceptance, read_acceptance
from fedbank.errors import UpdateError
from fedbank.model.folder import base_digest, tiny_folder
from fedbank.privacy.numbers import PlanNumbers
from fedbank.privacy.plan import PrivacyPlan, declared_size
from fedbank.proposal import Acceptance, Proposal
from fedbank_client.terms import training_plan


def proposal_of(*words: str) -> Proposal:
    return Proposal.of("North", base_digest(tiny_folder()), load_campaign([*TERMS, *words]))


@pytest.fixture(scope="module")
def proposal() -> Proposal:
    return proposal_of("name=trial")


def test_what_an_honest_bank_sends_is_accepted_to_the_last_number(proposal: Proposal) -> None:
    consent = read_acceptance(acceptance("bank-c", proposal.campaign), "bank-c", proposal)
    assert consent.plan is not None
    assert (consent.plan.noise_multiplier, consent.acceptance.declared_size) == (NOISE, SIZE)
    assert consent.plan.digest() == digest(NUMBERS) == consent.acceptance.plan_digest
    assert consent.plan.to_json() == plan_file(NUMBERS)
    other = read_acceptance(acceptance("bank-c", proposal.campaign, larger), "bank-c", proposal)
    assert other.acceptance.declared_size == 400


@pytest.mark.parametrize(("lie", "says"), LIES.values(), ids=LIES.keys())
def test_every_lie_is_refused_in_one_printable_sentence_about_it(proposal: Proposal, lie: Lie, says: str) -> None:
    with pytest.raises(UpdateError, match="Expected") as refused:
        read_acceptance(acceptance("bank-c", proposal.campaign, lie), "bank-c", proposal)
    reason = str(refused.value)
    assert says in reason
    assert reason.isprintable() and len(reason) < 600 and reason.encode("utf-8")


@pytest.mark.parametrize(
    ("customers", "words"),
    [
        (7, ()),
        (12_345, ()),
        (203, ("privacy.unit=record", "training.records_per_customer=1")),
        (203, ("privacy.delta=1e-7",)),
        (999, ("privacy.epsilon=8", "training.rounds=3", "training.expected_batch=5000")),
        (60, ("privacy.epsilon=1", "training.expected_batch=1", "training.optimizer=adam")),
    ],
    ids=["seven customers", "many", "records", "delta given", "everybody in every step", "one customer a step"],
)
def test_what_a_banks_own_code_plans_is_always_accepted(customers: int, words: tuple[str, ...]) -> None:
    """The two sides share the arithmetic, not the way to it: the bank calibrates, the coordinator compares."""
    proposal = proposal_of(*words)
    plan = training_plan(proposal.terms.privacy, proposal.terms.training, customers)
    assert isinstance(plan, PrivacyPlan)
    said = Acceptance(
        "bank-a",
        proposal.campaign,
        plan.digest(),
        plan.to_json(),
        declared_size(customers),
        plan.target_epsilon,
    )
    consent = read_acceptance(said.to_bytes(), "bank-a", proposal)
    assert consent.plan == PlanNumbers.from_json(plan.to_json())


def test_a_campaign_without_privacy_has_no_plan_and_holds_the_digest_all_the_same() -> None:
    config = load_campaign(["privacy=off", *(word for word in TERMS if not word.startswith("privacy."))])
    proposal = Proposal.of("North", base_digest(tiny_folder()), config)
    plan = training_plan(proposal.terms.privacy, proposal.terms.training, 200)
    said = Acceptance("bank-a", proposal.campaign, plan.digest(), "", 200, None)
    assert check_acceptance(said, "bank-a", proposal).plan is None
    lies = {
        "plan_digest": replace(said, plan_digest="0" * 64),
        "text of the plan": replace(said, plan=plan_file(NUMBERS)),
        "epsilon": replace(said, epsilon=3.0),
        "plan_digest '": replace(said, declared_size=900),
    }
    for says, lie in lies.items():
        with pytest.raises(UpdateError, match=f"Expected {says}"):
            check_acceptance(lie, "bank-a", proposal)


def test_a_bank_so_large_that_the_agreed_delta_would_give_a_customer_away_is_left_out() -> None:
    proposal = proposal_of("privacy.delta=0.001")
    said = Acceptance.from_bytes(written({**honest("bank-c", proposal.campaign), "declared_size": 2000}))
    with pytest.raises(UpdateError, match=r"privacy\.delta below 1/2000"):
        check_acceptance(
            replace(said, plan=said.plan.replace("0.08", "0.008")),
            "bank-c",
            proposal,
        )


def test_the_steps_of_a_plan_are_those_of_all_rounds(proposal: Proposal) -> None:
    for rounds, steps in ((1, 2), (3, 4)):
        training = replace(proposal.terms.training, rounds=rounds, local_steps=steps)
        assert agreed_sampling(training, 250).num_steps == rounds * steps
        assert agreed_sampling(training, 257).sampling_prob == 16 / 250


def test_a_size_that_is_no_whole_number_is_refused_before_any_arithmetic(proposal: Proposal) -> None:
    said = Acceptance.from_bytes(acceptance("bank-c", proposal.campaign))
    for size in (True, 200.0, 10**400):
        with pytest.raises(UpdateError, match="declared size from 1 to 1000000000"):
            check_acceptance(replace(said, declared_size=size), "bank-c", proposal)  # type: ignore[arg-type]


def test_a_plan_of_the_bank_and_its_public_numbers_are_one_file_and_one_digest() -> None:
    plan = PrivacyPlan.from_json(plan_file(NUMBERS))
    public = PlanNumbers.from_json(plan.to_json())
    assert (public.digest(), public.to_json()) == (plan.digest(), plan.to_json())
    assert type(plan) is PrivacyPlan and type(public) is PlanNumbers


@pytest.mark.parametrize("module", ["fedbank.consent", "fedbank.privacy.numbers", "fedbank_server.parties"])
def test_acceptances_are_checked_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
