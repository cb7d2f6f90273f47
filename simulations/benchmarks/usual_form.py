"""Client apps as they are usually written for Flower: everything is loaded anew in every call."""

from functools import lru_cache
from pathlib import Path

from flwr.app import Context

from fedbank.adapter.lora import AdaptedModel
from fedbank.config import parse_simulate
from fedbank.data.encode import EncodedUnits, Encoder
from fedbank.data.units import Unit
from fedbank.model.loading import load_base_model, load_tokenizer
from fedbank.privacy.noise import RandomStream
from fedbank_client.bank import Bank, Participation
from fedbank_client.loading import model_spec
from fedbank_client.terms import local_settings, lora_settings
from fedbank_simulations.campaigns import FEDERATED
from fedbank_simulations.inline import PARTITION_ID
from fedbank_simulations.resident import Resident, resident
from fedbank_simulations.scenario import divide


class FreshModelBank:
    """Every call loads the base model, attaches the adapter, trains, and forgets both; data stay tokenised."""

    def __init__(self, settings: str, folder: str) -> None:
        self._settings, self._folder = settings, folder

    def __call__(self, context: Context) -> Bank:
        """The bank of the node, with a model of its own."""
        home = resident(self._settings)
        members = home.members(FEDERATED)
        name = sorted(members)[int(context.node_config[PARTITION_ID])]
        base = load_base_model(model_spec(home.config.model))
        model = AdaptedModel(base.model, lora_settings(home.config.adapter, home.config.aggregation.rule))
        return Bank(
            name,
            Participation(FEDERATED, members[name].plan, local_settings(home.config.training)),
            self._data(home, name),
            lambda: model,
            Path(self._folder) / "banks" / name,
            stream_for_round=lambda number: RandomStream.derived(0, name, number),
            device=base.device,
            sync=False,
        )

    def _data(self, home: Resident, name: str) -> EncodedUnits:
        return home.members(FEDERATED)[name].data


class UsualBank(FreshModelBank):
    """As Flower's quickstart: tokenizer and tokenised partition are made anew in every call, too."""

    def _data(self, home: Resident, name: str) -> EncodedUnits:
        tokenizer = load_tokenizer(model_spec(home.config.model))
        units = _partitions(self._settings)[name][: home.members(FEDERATED)[name].data.num_units]
        return Encoder(tokenizer, home.config.model.max_length).encode(units)


@lru_cache(maxsize=1)
def _partitions(settings: str) -> dict[str, list[Unit]]:
    """The banks' customers as text, once per process."""
    return divide(parse_simulate(settings))[0]
