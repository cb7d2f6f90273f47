"""One whole simulation: prepare, run every campaign, score, write everything a researcher takes away."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from fedbank.config import SimulateConfig, parse_simulate, to_yaml
from fedbank.model.loading import check_model_source
from fedbank.model.quiet import quiet_libraries
from fedbank.training.engines import check_engine
from fedbank_client.loading import model_spec
from fedbank_simulations.campaigns import FEDERATED, campaign_names
from fedbank_simulations.federation import campaign_folder, run_campaign
from fedbank_simulations.folder import RESULTS, choose_output, claimed, open_run
from fedbank_simulations.progress import shown
from fedbank_simulations.recorder import read_rounds
from fedbank_simulations.resident import Resident, resident
from fedbank_simulations.results import write_results

NO_PRIVACY = (
    "PRIVACY IS OFF. The adapter can reveal individual customers' records.\n"
    "Never publish it and never serve it: privacy=off is for comparison on public data."
)


def simulate(
    config: SimulateConfig, console: Console, *, stop: Callable[[], bool] = lambda: False
) -> dict[str, Any] | None:
    """Run or resume the simulation that ``config`` describes; returns its results, ``None`` if stopped early.

    Everything that can be wrong with settings, data, model or privacy is found before the folder is created.
    """
    began = time.monotonic()
    quiet_libraries()
    if config.resume is not None:
        output = Path(config.resume)
        settings = open_run(output)
        config = parse_simulate(settings)
        if (output / RESULTS).exists():
            console.print(f"{output} is finished; nothing to do.", highlight=False)
            finished: dict[str, Any] = json.loads((output / RESULTS).read_bytes())
            return finished
    else:
        output = choose_output(config.output)
        config.output = str(output)
        _make_paths_absolute(config)
        settings = to_yaml(config)
    check_model_source(model_spec(config.model))
    if not config.privacy.enabled:
        console.print(NO_PRIVACY, style="bold red")
    console.print("Preparing data and model ...", highlight=False)
    home = resident(settings)
    check_engine(home.model, config.training.per_example)
    names = campaign_names(config, home.scenario.banks)
    members = {name: home.members(name) for name in names}
    _announce(console, home, output)
    with claimed(output, settings):
        earlier = _seconds_recorded(output, names)
        total = sum(len(members[name]) for name in names) * config.training.rounds
        states = {}
        with shown(console, total) as progress:
            for name in names:
                states[name] = run_campaign(home, settings, name, output, progress, stop)
                if stop():
                    return None
        console.print("Scoring held-out customers and writing the report ...", highlight=False)
        results = write_results(home, output, states, earlier + time.monotonic() - began)
        from fedbank_simulations.report.page import write_run_report

        write_run_report(output)
    return results


def _announce(console: Console, home: Resident, output: Path) -> None:
    for name, bank in home.scenario.banks.items():
        facts = bank.facts
        plan = home.members(FEDERATED)[name].plan
        noise = getattr(plan, "noise_multiplier", None)
        protection = "no privacy" if noise is None else f"noise multiplier {noise:.2f}"
        mix = ", ".join(f"{key} {100 * share:.0f} %" for key, share in list(facts.keys.items())[:3])
        console.print(
            f"{name}: {facts.customers} customers, {facts.records} records, {protection}; mostly {mix}",
            highlight=False,
            soft_wrap=True,
        )
        if facts.full_length_records:
            console.print(
                f"{name}: {facts.full_length_records} of {facts.records} records are cut to model.max_length="
                f"{home.config.model.max_length} tokens; raise it if the model allows.",
                style="yellow",
                highlight=False,
            )
    console.print(f"Results go to {output}", highlight=False, soft_wrap=True)


def _seconds_recorded(output: Path, names: list[str]) -> float:
    lines = [line for name in names for line in read_rounds(campaign_folder(output, name) / "rounds.jsonl")]
    return float(sum(line["seconds"] for line in lines))


def _make_paths_absolute(config: SimulateConfig) -> None:
    """So that the run can be resumed from another working directory."""
    for section in (config.data, config.model):
        section.path = None if section.path is None else str(Path(section.path).absolute())
