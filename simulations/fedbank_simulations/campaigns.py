"""Which campaigns a simulation runs, and who takes part in each with which data and plan.

``federated`` is the run itself. The others answer "compared with what?", on the same held-out customers:
``local_only/BANK`` (each bank alone, its own plan), ``federated_nonprivate``, ``centralized`` (all customers at one
imaginary bank that trains on as many of them per step as all banks together, under the same epsilon).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fedbank.adapter.state import AdapterSpec
from fedbank.aggregation.norms import noise_norms, noise_std, update_norm_bounds
from fedbank.aggregation.terms import CampaignTerms
from fedbank.config import SimulateConfig
from fedbank.data.encode import EncodedUnits
from fedbank.privacy.plan import PrivacyPlan, TrainingPlan, declared_size
from fedbank.proposal import server_step_of
from fedbank_client.terms import training_plan, units_of
from fedbank_simulations.scenario import Scenario, pool

FEDERATED, NONPRIVATE, CENTRALIZED, LOCAL = "federated", "federated_nonprivate", "centralized", "local_only"
_POOLED = "all-customers"


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """One bank in one campaign."""

    data: EncodedUnits
    plan: TrainingPlan


def campaign_names(config: SimulateConfig, banks: Mapping[str, object]) -> list[str]:
    """The campaigns of a run, the federated one first."""
    names = [FEDERATED]
    if config.comparisons.local_only:
        names += [f"{LOCAL}/{bank}" for bank in banks]
    if config.comparisons.federated_nonprivate and config.privacy.enabled:
        names.append(NONPRIVATE)
    if config.comparisons.centralized:
        names.append(CENTRALIZED)
    return names


def banks_of(campaign: str, banks: Iterable[str]) -> list[str]:
    """The banks whose customers ``campaign`` is about: the one of ``local_only/BANK``, else all of ``banks``."""
    alone = campaign.removeprefix(f"{LOCAL}/")
    return list(banks) if alone == campaign else [alone]


def members_of(campaign: str, config: SimulateConfig, scenario: Scenario) -> dict[str, Member]:
    """Who takes part in ``campaign``, by bank name. Plans are calibrated here, from declared sizes only."""
    privacy, training = config.privacy, config.training
    unit, batch = privacy.unit, training.expected_batch
    if campaign == CENTRALIZED:
        shares = [units_of(bank.train, unit) for bank in scenario.banks.values()]
        pooled = pool(shares)
        per_step = sum(min(batch, declared_size(share.num_units)) for share in shares)
        return {_POOLED: Member(pooled, training_plan(privacy, training, pooled.num_units, batch=per_step))}
    protected = campaign != NONPRIVATE
    data = {name: units_of(scenario.banks[name].train, unit) for name in banks_of(campaign, scenario.banks)}
    return {
        name: Member(share, training_plan(privacy, training, share.num_units, protected=protected))
        for name, share in data.items()
    }


def make_terms(
    campaign: str, config: SimulateConfig, spec: AdapterSpec, members: Mapping[str, Member]
) -> CampaignTerms:
    """What the parties of ``campaign`` agreed on."""
    rules = config.aggregation
    declared = rules.weights == "declared"
    training = config.training
    numbers = (
        spec.num_trainable(),
        training.local_steps,
        training.optimizer,
        training.learning_rate,
        training.momentum,
    )
    plans = {name: member.plan if isinstance(member.plan, PrivacyPlan) else None for name, member in members.items()}
    return CampaignTerms(
        campaign,
        spec,
        rules.rule,
        server_step_of(rules),
        config.training.rounds,
        config.training.local_steps,
        {name: float(declared_size(member.data.num_units)) if declared else 1.0 for name, member in members.items()},
        {name: member.plan.digest() for name, member in members.items()},
        norm_bounds=update_norm_bounds(*numbers, plans),
        noise_norms=noise_norms(*numbers, {name: noise_std(plan) for name, plan in plans.items()}),
    )
