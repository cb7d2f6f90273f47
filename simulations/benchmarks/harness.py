"""What benchmarks of training share: a bare campaign without scoring; and the lines that all of them print."""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedbank.config import load_simulate, to_yaml
from fedbank_client.app import make_client_app, raise_it
from fedbank_client.bank import Bank
from fedbank_server.app import make_server_app
from fedbank_server.campaign import Campaign
from fedbank_server.observer import CommittedRound, Observer
from fedbank_server.store import CampaignStore
from fedbank_simulations.campaigns import FEDERATED, make_terms
from fedbank_simulations.federation import first_state
from fedbank_simulations.identities import SimulatedSeals, coordinator_keys
from fedbank_simulations.inline import run_inline
from fedbank_simulations.resident import OpenSimulatedBank, resident
from fedbank_simulations.workers import side_by_side
from simulations.benchmarks.reporting import argument_parser, publish, write_lines

__all__ = ["Clock", "argument_parser", "publish", "settings_for", "timed_campaign", "write_lines"]


class Clock(Observer):
    """An observer that only notes when rounds are committed."""

    def __init__(self) -> None:
        self.committed: list[float] = []

    def round_committed(self, committed: CommittedRound) -> None:
        """Note the time."""
        self.committed.append(time.perf_counter())

    def seconds_per_round(self) -> float:
        """From the first commit to the last: starting up and the first, cold round do not count."""
        return (self.committed[-1] - self.committed[0]) / (len(self.committed) - 1)


def settings_for(overrides: Sequence[str]) -> str:
    """The settings of a simulation as YAML."""
    return to_yaml(load_simulate(overrides))


def timed_campaign(
    settings: str,
    open_bank: Callable[[str, str], Callable[[Context], Bank]] = lambda settings, folder: OpenSimulatedBank(
        settings, FEDERATED, folder
    ),
    engine: Callable[[ServerApp, ClientApp, int], None] | None = None,
) -> float:
    """Seconds per round of the federated campaign, without scoring, on ``engine``; the inline one if none is given."""
    home = resident(settings)
    members = home.members(FEDERATED)
    terms = make_terms(FEDERATED, home.config, home.model.spec, members)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(
            terms,
            CampaignStore(Path(folder) / "state.safetensors", simulated=True),
            first_state(home),
            clock,
            coordinator_keys(home.config.seed, terms.weights),
        )
        seals = SimulatedSeals.of(home.config.seed, terms)
        apps = (make_server_app(campaign), make_client_app(open_bank(settings, folder), raise_it, seals))
        if engine is None:
            with side_by_side(home, len(members)) as executor:
                run_inline(*apps, len(members), executor)
        else:
            engine(*apps, len(members))
    return clock.seconds_per_round()
