"""What a bank computes from its customers before any noise stays inside, or is public by agreement."""

import math
from collections.abc import Sequence

import pytest

from fedbank.config import load_simulate, to_yaml
from fedbank.privacy.plan import PrivacyPlan, declared_size
from fedbank_client.terms import training_plan
from fedbank_simulations.campaigns import FEDERATED, make_terms
from fedbank_simulations.federation import first_state
from fedbank_simulations.resident import Resident, resident

SMALL = ("data.customers=600", "training.rounds=2", "training.local_steps=2", "training.expected_batch=16")


def _home(*overrides: str) -> Resident:
    return resident(to_yaml(load_simulate([*SMALL, *overrides])))


@pytest.mark.parametrize("customers", [(1230, 1239), (1200, 1299), (57_000, 57_999)])
def test_one_customer_more_or_fewer_does_not_show_in_the_plan(customers: tuple[int, int]) -> None:
    """The plan travels; it is made from the declared size, two digits, and from nothing else of the data."""
    config = load_simulate(SMALL)
    plans = {training_plan(config.privacy, config.training, count, batch=16).digest() for count in customers}
    assert len(plans) == 1


def test_customers_do_not_show_in_the_first_adapter_nor_in_the_terms() -> None:
    def public(overrides: Sequence[str]) -> tuple[str, object]:
        home = _home(*overrides)
        terms = make_terms(FEDERATED, home.config, home.model.spec, home.members(FEDERATED))
        return first_state(home).digest(), (terms.adapter, terms.rule, terms.server_step, dict(terms.weights))

    one, other = public(["banks=3", "seed=0"]), public(["banks=3", "seed=0", "data.customers=700"])
    assert one == other


@pytest.mark.parametrize("privacy", ["customer", "off"])
def test_a_simulation_knows_the_noise_of_every_bank_and_limits_shares_as_a_deployment_does(privacy: str) -> None:
    home = _home("banks=3", f"privacy={privacy}")
    members = home.members(FEDERATED)
    terms = make_terms(FEDERATED, home.config, home.model.spec, members)
    training, expected = home.config.training, dict.fromkeys(members, 0.0)
    for name, member in members.items():
        if isinstance(member.plan, PrivacyPlan):
            std = member.plan.noise_multiplier * member.plan.clip_norm / member.plan.sampling.expected_batch_size
            size = home.model.spec.num_trainable() * training.local_steps
            expected[name] = training.learning_rate * std * math.sqrt(size)
    assert training.momentum == 0 and training.optimizer == "sgd"
    assert (terms.noise_norms, terms.max_share) == (pytest.approx(expected), 0.5)


def test_that_every_bank_takes_part_in_every_round_is_no_amplification() -> None:
    """Participation is known to the coordinator: the accountant sees each bank's own sampling and nothing less."""
    plans = {}
    for banks in (2, 3, 6):
        home = _home(f"banks={banks}", "partition=iid", "partition.size_exponent=0")
        for member in home.members(FEDERATED).values():
            assert isinstance(member.plan, PrivacyPlan)
            event, declared = member.plan.event(4), declared_size(member.data.num_units)
            assert event.sampling_prob == member.plan.sampling.sampling_prob == 16 / declared
            plans[banks] = event.sampling_prob
    assert plans[2] < plans[3] < plans[6]  # fewer customers at a bank, a larger share of them in a step


def test_with_records_as_units_every_record_is_sampled_and_clipped_alone() -> None:
    home = _home("banks=2", "privacy.unit=record")
    for name, member in home.members(FEDERATED).items():
        assert isinstance(member.plan, PrivacyPlan)
        assert member.plan.unit == "record" and member.plan.guarantee().startswith("FOR SINGLE RECORDS ONLY")
        train = home.scenario.banks[name].train
        assert member.data.num_units == train.num_records > train.num_units
        assert set(member.data.records_per_unit()) == {1}
        assert member.plan.sampling.sampling_prob == 16 / declared_size(train.num_records)
