"""Which campaigns a simulation runs, and who takes part in each with which data and plan.

``federated`` is the run itself. The others answer "compared with what?", on the same held-out customers:
``local_only/BANK`` (each bank alone, its own plan), ``federated_nonprivate``, ``centralized`` (all customers at one
imaginary bank that trains on as many of them per step as all banks together, under the same epsilon).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fedbank.adapter.lora import LoraSettings
from fedbank.adapter.state import AdapterSpec
from fedbank.aggregation.norms import adam_norm_bound, sgd_norm_bound
from fedbank.aggregation.rules import RULES
from fedbank.aggregation.server_step import ServerStep
from fedbank.aggregation.terms import CampaignTerms
from fedbank.config import SimulateConfig
from fedbank.data.encode import EncodedUnits
from fedbank.privacy.plan import PrivacyPlan, Sampling, TrainingPlan, UnprotectedPlan, declared_size
from fedbank.training.local import LocalSettings
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
    batch = config.training.expected_batch
    if campaign == CENTRALIZED:
        shares = [_units(config, bank.train) for bank in scenario.banks.values()]
        pooled = pool(shares)
        per_step = sum(min(batch, declared_size(share.num_units)) for share in shares)
        return {_POOLED: Member(pooled, make_plan(config, pooled.num_units, per_step))}
    protected = config.privacy.enabled and campaign != NONPRIVATE
    data = {name: _units(config, scenario.banks[name].train) for name in banks_of(campaign, scenario.banks)}
    return {name: Member(share, make_plan(config, share.num_units, batch, protected)) for name, share in data.items()}


def _units(config: SimulateConfig, data: EncodedUnits) -> EncodedUnits:
    """The data in the units that the plan protects."""
    return data.by_record() if config.privacy.unit == "record" else data


def make_plan(config: SimulateConfig, units: int, batch: int, protected: bool | None = None) -> TrainingPlan:
    """The plan of a bank with ``units`` (customers, or records) for the whole campaign, from the target epsilon."""
    num_steps = config.training.rounds * config.training.local_steps
    sampling = Sampling.for_population(units, batch, config.training.records_per_customer, num_steps)
    privacy = config.privacy
    if not (privacy.enabled if protected is None else protected):
        return UnprotectedPlan(sampling)
    if privacy.epsilon is None or privacy.clip_norm is None:
        raise ValueError("privacy is on without epsilon or clip_norm; load_simulate refuses this")
    return PrivacyPlan.calibrate(privacy.epsilon, privacy.delta, sampling, privacy.clip_norm, units, privacy.unit)


def make_terms(
    campaign: str, config: SimulateConfig, spec: AdapterSpec, members: Mapping[str, Member]
) -> CampaignTerms:
    """What the parties of ``campaign`` agreed on."""
    rules = config.aggregation
    declared = rules.weights == "declared"
    return CampaignTerms(
        campaign,
        spec,
        rules.rule,
        ServerStep(rules.server_step, rules.learning_rate, rules.beta1, rules.beta2, rules.tau),
        config.training.rounds,
        config.training.local_steps,
        {name: float(declared_size(member.data.num_units)) if declared else 1.0 for name, member in members.items()},
        {name: member.plan.digest() for name, member in members.items()},
        max_update_norm=_max_update_norm(config, spec, members),
    )


def _max_update_norm(config: SimulateConfig, spec: AdapterSpec, members: Mapping[str, Member]) -> float:
    """What no bank's honest update exceeds; infinity for SGD without clipping, where there is no such norm."""
    training = config.training
    size = sum(math.prod(shape) for shape in spec.trainable_shapes().values())
    if training.optimizer == "adam":
        return adam_norm_bound(size, training.local_steps, training.learning_rate)
    plans = [member.plan for member in members.values()]
    private = [plan for plan in plans if isinstance(plan, PrivacyPlan)]
    if len(private) < len(plans):
        return math.inf
    return max(
        sgd_norm_bound(
            size,
            training.local_steps,
            training.learning_rate,
            training.momentum,
            clip_norm=plan.clip_norm,
            noise_multiplier=plan.noise_multiplier,
            expected_batch=plan.sampling.expected_batch_size,
        )
        for plan in private
    )


def local_settings(config: SimulateConfig) -> LocalSettings:
    """How every bank trains within a round."""
    training = config.training
    return LocalSettings(
        training.local_steps,
        training.learning_rate,
        training.optimizer,
        training.momentum,
        training.micro_batch,
        training.per_example,
    )


def lora_settings(config: SimulateConfig) -> LoraSettings:
    """The adapter that the aggregation rule asks for."""
    adapter = config.adapter
    return LoraSettings(
        adapter.rank,
        adapter.alpha,
        tuple(adapter.target_modules),
        trainable=RULES[config.aggregation.rule],
        last_layers=adapter.last_layers,
        dropout=adapter.dropout,
    )
