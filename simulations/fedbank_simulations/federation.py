"""Runs one campaign of a simulation to its end on the chosen back end, or to where it was stopped."""

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from pathlib import Path

from fedbank.adapter.state import initial_state
from fedbank.aggregation.rounds import GlobalState
from fedbank.errors import RunError
from fedbank.privacy.ledger import LEDGER, Ledger
from fedbank.privacy.plan import PrivacyPlan
from fedbank_client.app import make_client_app, raise_it
from fedbank_server.app import make_server_app
from fedbank_server.campaign import Campaign
from fedbank_server.store import CampaignStore
from fedbank_simulations.campaigns import FEDERATED, Member, make_terms
from fedbank_simulations.identities import SimulatedSeals, coordinator_keys
from fedbank_simulations.inline import run_inline
from fedbank_simulations.recorder import Progress, Recorder
from fedbank_simulations.resident import OpenSimulatedBank, Resident, bank_folder
from fedbank_simulations.workers import side_by_side


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
    with side_by_side(home, len(home.members(campaign))) as executor:
        return _run(home, settings, campaign, output, progress, stop, executor)


def _run(
    home: Resident,
    settings: str,
    campaign: str,
    output: Path,
    progress: Progress,
    stop: Callable[[], bool],
    executor: Executor | None,
) -> GlobalState:
    folder = campaign_folder(output, campaign)
    store = CampaignStore(folder / "state.safetensors", simulated=True)
    recorder = Recorder(home, campaign, folder, progress, executor)
    members = home.members(campaign)
    initial = first_state(home)
    state = store.load(home.model.spec) or initial
    progress.campaign_started(campaign, len(members), home.config.training.rounds, state.round)
    recorded = recorder.recorded()
    _check_books(recorded, folder, members, state)
    if not recorded:
        recorder.record(initial, {})
    elif recorded[-1] < state.round:  # a crash came between the commit and its line
        recorder.record(state, store.costs())
    terms = make_terms(campaign, home.config, home.model.spec, members)
    seed = home.config.seed
    keys = coordinator_keys(seed, terms.weights)
    server = make_server_app(Campaign(terms, store, initial, recorder, keys, stop=stop))
    open_bank = OpenSimulatedBank(settings, campaign, str(folder.resolve()))
    client = make_client_app(open_bank, raise_it, SimulatedSeals.of(seed, terms))
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
        run_inline(server, client, len(members), executor)
    final = store.load(home.model.spec) or initial
    if final.round < home.config.training.rounds and not stop():
        raise RunError(
            f"Expected {home.config.training.rounds} rounds of {campaign}, got {final.round}: the engine ended early. "
            f"Continue with resume={output}."
        )
    return final


def _check_books(recorded: list[int], folder: Path, members: Mapping[str, Member], state: GlobalState) -> None:
    """State, rounds and ledgers must tell the same story; ``RunError`` if a file was lost, cut or replaced."""
    last = len(recorded) - 1
    if recorded != list(range(len(recorded))) or not state.round - 1 <= last <= state.round:
        raise RunError(
            f"Expected rounds.jsonl in {folder} to hold the rounds 0 to {state.round} of state.safetensors, "
            f"got {recorded}. Restore both from a backup or start the run again in a new folder."
        )
    for name, member in members.items():
        if isinstance(member.plan, PrivacyPlan):
            charged = {charge.round for charge in Ledger(bank_folder(folder, name) / LEDGER, name).charges()}
            if missing := set(range(1, state.round + 1)) - charged:
                raise RunError(
                    f"Expected the ledger of {name} in {folder} to hold every committed round, "
                    f"got none of {sorted(missing)}. Restore it from a backup: the privacy spent is unknown."
                )
