"""Runs one campaign of a simulation to its end on the chosen back end, or to where it was stopped."""

from collections.abc import Callable
from pathlib import Path

from fedbank.adapter.state import initial_state
from fedbank.aggregation.rounds import GlobalState
from fedbank.errors import RunError
from fedbank_client.app import make_client_app
from fedbank_server.app import make_server_app
from fedbank_server.campaign import Campaign
from fedbank_server.store import CampaignStore
from fedbank_simulations.campaigns import FEDERATED, make_terms
from fedbank_simulations.inline import run_inline
from fedbank_simulations.recorder import Progress, Recorder
from fedbank_simulations.resident import OpenSimulatedBank, Resident


def campaign_folder(output: Path, campaign: str) -> Path:
    """Where a campaign keeps its rounds: the run's folder itself, or one under ``comparisons/``."""
    return output if campaign == FEDERATED else output / "comparisons" / campaign


def first_state(home: Resident) -> GlobalState:
    """The adapter that every campaign starts from: it changes nothing about the base model."""
    return GlobalState(0, initial_state(home.model.spec, seed=home.config.seed))


def run_campaign(
    home: Resident, settings: str, campaign: str, output: Path, progress: Progress, stop: Callable[[], bool]
) -> GlobalState:
    """Train the rounds that are missing; returns the last committed state."""
    folder = campaign_folder(output, campaign)
    store = CampaignStore(folder / "state.safetensors")
    recorder = Recorder(home, campaign, folder, progress)
    members = home.members(campaign)
    initial = first_state(home)
    state = store.load(home.model.spec) or initial
    progress.campaign_started(campaign, len(members), home.config.training.rounds, state.round)
    _catch_up(recorder, state, initial)
    terms = make_terms(campaign, home.config, home.model.spec, members)
    server = make_server_app(Campaign(terms, store, initial, recorder, stop=stop))
    client = make_client_app(OpenSimulatedBank(settings, campaign, str(folder.resolve())))
    simulation = home.config.simulation
    if state.round == home.config.training.rounds:
        return state
    if simulation.backend == "ray":
        from fedbank_simulations.ray_engine import run_ray

        run_ray(
            server,
            client,
            len(members),
            address=simulation.ray_address,
            cpus_per_bank=simulation.cpus_per_bank,
            gpus_per_bank=simulation.gpus_per_bank,
        )
    else:
        run_inline(server, client, len(members))
    final = store.load(home.model.spec) or initial
    if final.round < home.config.training.rounds and not stop():
        raise RunError(
            f"Expected {home.config.training.rounds} rounds of {campaign}, got {final.round}: the engine ended early. "
            f"Continue with resume={output}."
        )
    return final


def _catch_up(recorder: Recorder, state: GlobalState, initial: GlobalState) -> None:
    """Record what a crash left out: the base model's line, or that of a round committed just before the crash."""
    recorded = {line["round"] for line in recorder.lines()}
    nothing = {"seconds": 0.0, "bytes_up": 0, "bytes_down": 0, "update_norm": 0.0}
    if 0 not in recorded:
        recorder.record(0, initial.adapter, initial.digest(), nothing)
    if state.round not in recorded and state.round > 0:
        recorder.record(state.round, state.adapter, state.digest(), nothing)
