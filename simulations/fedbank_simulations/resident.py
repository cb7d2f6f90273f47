"""What stays in a process between messages: the base model with its adapter, the scenario, the banks.

A process (this one, or a Ray actor) builds it once from the settings, whatever number of banks it serves.
"""

import threading
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context

from fedbank.adapter.lora import AdaptedModel
from fedbank.config import SimulateConfig, parse_simulate
from fedbank.model.loading import BaseModel, load_base_model, load_tokenizer
from fedbank.privacy.noise import RandomStream
from fedbank_client.bank import Bank, Participation
from fedbank_client.lineage import Lineage, campaign_reach
from fedbank_client.loading import model_spec
from fedbank_client.terms import local_settings, lora_settings
from fedbank_simulations.campaigns import Member, members_of
from fedbank_simulations.inline import PARTITION_ID
from fedbank_simulations.scenario import Scenario, build_scenario


class _Models(threading.local):
    """The adapted model of every thread: the first one for the thread that made it, a replica for any other."""

    def __init__(self, first: AdaptedModel, maker: int) -> None:
        self.own = first if threading.get_ident() == maker else first.replica()


@dataclass(slots=True)
class Resident:
    """Models, data, memberships and opened banks (by folder, campaign, name) of one consortium, in one process."""

    config: SimulateConfig
    base: BaseModel
    tokenizer: Any
    scenario: Scenario
    _models: _Models
    _members: dict[str, dict[str, Member]] = field(default_factory=dict)
    banks: dict[tuple[str, str, str], Bank] = field(default_factory=dict)

    @property
    def model(self) -> AdaptedModel:
        """The base model with an adapter that belongs to the calling thread."""
        return self._models.own

    def members(self, campaign: str) -> dict[str, Member]:
        """Who takes part in ``campaign``; calibrated once per process."""
        if campaign not in self._members:
            self._members[campaign] = members_of(campaign, self.config, self.scenario)
        return self._members[campaign]

    def seat(self, campaign: str, members: dict[str, Member]) -> None:
        """Let ``members`` take part in ``campaign``, whatever the settings say: for audits, in this process only."""
        self._members[campaign] = members
        self.banks.clear()


@lru_cache(maxsize=1)
def resident(settings: str) -> Resident:
    """The process's one consortium for ``settings`` (YAML, see ``fedbank.config.to_yaml``)."""
    config = parse_simulate(settings)
    if config.simulation.threads is not None:
        torch.set_num_threads(config.simulation.threads)
    tokenizer = load_tokenizer(model_spec(config.model))
    scenario = build_scenario(config, tokenizer)
    base = load_base_model(model_spec(config.model))
    models = _Models(
        AdaptedModel(base.model, lora_settings(config.adapter, config.aggregation.rule)), threading.get_ident()
    )
    return Resident(config, base, tokenizer, scenario, models)


def bank_folder(campaign_folder: Path, name: str) -> Path:
    """Where a simulated bank keeps its ledger and its last finished update."""
    return campaign_folder / "banks" / name


@dataclass(frozen=True, slots=True)
class OpenSimulatedBank:
    """Finds the bank that a Flower node stands for: the nodes' numbers follow the order of the bank names.

    Small and picklable: Flower's Ray engine sends it along with every message. Noise comes from streams derived
    from the simulation's seed, so that an interrupted run repeats itself exactly, and its files are not synced: after
    a power cut a simulation may have to be run again. A deployed bank has no path to either.
    """

    settings: str
    campaign: str
    folder: str

    def __call__(self, context: Context) -> Bank:
        """The bank of the node that ``context`` belongs to."""
        home = resident(self.settings)
        members = home.members(self.campaign)
        name = sorted(members)[int(context.node_config[PARTITION_ID])]
        place = (self.folder, self.campaign, name)
        if place not in home.banks:
            home.banks[place] = self._open(home, name)
        return home.banks[place]

    def _open(self, home: Resident, name: str) -> Bank:
        members, seed, campaign = home.members(self.campaign), home.config.seed, self.campaign
        folder, private = bank_folder(Path(self.folder), name), members[name].plan.private
        terms = replace(home.config, privacy=replace(home.config.privacy, enabled=private))
        return Bank(
            name,
            Participation(campaign, members[name].plan, local_settings(home.config.training)),
            members[name].data,
            lambda: home.model,
            folder,
            stream_for_round=lambda number: RandomStream.derived(seed, campaign, name, number),
            device=home.base.device,
            sync=False,
            lineage=Lineage(folder, campaign_reach(campaign, terms, home.model.spec), sync=False),
        )
