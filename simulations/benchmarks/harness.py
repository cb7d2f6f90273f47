"""What all benchmarks share: the machine's description, a bare campaign without scoring, one line of output."""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
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

REPORTS = Path(__file__).parent / "reports"


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


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cpus": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("fedbank", "flwr", "torch", "transformers", "ray")},
    }


def publish(name: str, lines: Iterable[dict[str, Any]]) -> None:
    """Print the lines as they come (JSON with ``--json``, else the figures in words) and keep them in the report."""
    write_lines(name, lines, as_json=argument_parser(name).parse_args().json)


def argument_parser(name: str) -> argparse.ArgumentParser:
    """The arguments that all benchmarks have; one that needs more adds them and calls ``write_lines``."""
    parser = argparse.ArgumentParser(prog=f"python -m simulations.benchmarks.{name}")
    parser.add_argument("--json", action="store_true", help="one JSON object per line and nothing else")
    return parser


def write_lines(name: str, lines: Iterable[dict[str, Any]], *, as_json: bool, report: str | None = None) -> None:
    """Print the lines as they come and keep them in ``reports/``, in the file ``report`` (default: ``name``)."""
    REPORTS.mkdir(exist_ok=True)
    kept = ""
    for line in lines:
        complete = {"benchmark": name, **line, "machine": machine()}
        kept += json.dumps(complete) + "\n"
        words = "  ".join(f"{key}={value}" for key, value in complete.items() if key != "machine")
        sys.stdout.write((json.dumps(complete) if as_json else words) + "\n")
        sys.stdout.flush()
        (REPORTS / f"{report or name}.jsonl").write_text(kept, "utf-8")
