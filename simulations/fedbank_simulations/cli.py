"""``fedbank simulate`` and ``fedbank report``."""

import argparse
import json
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.table import Table

from fedbank.command_line import plain_console, say
from fedbank.config import config_dir, expand_sweep, load_simulate, to_yaml
from fedbank.durable import write_atomic
from fedbank.errors import ConfigError
from fedbank.privacy.accounting import round_up
from fedbank_simulations.card import format_nll
from fedbank_simulations.folder import CONFIG, choose_output

_EXIT_INTERRUPTED = 130
_SWEEP = "runs.json"
_LABELS = {
    "base": "base model",
    "local_only": "average bank alone",
    "federated": "federated",
    "federated_nonprivate": "federated, no privacy",
    "centralized": "all customers in one place",
}


def simulate_command(arguments: Sequence[str]) -> int:
    """Run, resume or sweep simulations; the exit code."""
    parser = argparse.ArgumentParser(
        prog="fedbank simulate",
        description="Several banks train one shared adapter on this machine, with the apps that a deployment runs.",
        epilog=_settings_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="settings, e.g. banks=8 privacy.epsilon=3")
    parser.add_argument("-m", "--multirun", action="store_true", help="one run for every combination of a,b,c values")
    parser.add_argument("--json", action="store_true", help="print results.json and nothing else; progress on stderr")
    chosen = parser.parse_intermixed_args(list(arguments))
    console = plain_console(stderr=chosen.json)
    if chosen.multirun:
        return _sweep(chosen.overrides, console, as_json=chosen.json)
    results = _run(chosen.overrides, console)
    if results is None:
        return _EXIT_INTERRUPTED
    if chosen.json:
        sys.stdout.write(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    else:
        _print_summary(results, console)
    return 0


def report_command(arguments: Sequence[str]) -> int:
    """Write a sweep's report; the exit code."""
    parser = argparse.ArgumentParser(
        prog="fedbank report", description="Privacy-utility curves over finished simulations, with seeds and intervals."
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="DIR", help="a run's folder, or one that holds several"
    )
    parser.add_argument(
        "--output", type=Path, default=None, metavar="FILE", help="default: DIR/sweep.html of the first DIR"
    )
    chosen = parser.parse_args(list(arguments))
    from fedbank_simulations.report.sweep import write_sweep_report

    written = write_sweep_report(chosen.folders, chosen.output or chosen.folders[0] / "sweep.html")
    say(f"Wrote {written}")
    return 0


def _run(overrides: Sequence[str], console: Console) -> dict[str, Any] | None:
    config = load_simulate(overrides)
    others = [o for o in overrides if not o.startswith("resume=")]
    if config.resume is not None and others:
        raise ConfigError(
            f"Expected nothing beside resume=DIR, got {' '.join(others)}. "
            "A run continues with the settings it began with."
        )
    from fedbank_simulations.run import simulate

    with _stop_requests() as stop:
        try:
            results = simulate(config, console, stop=stop)
        except KeyboardInterrupt:
            results = None
    if results is None:
        folder = Path(config.resume or config.output or "")
        if not (folder / CONFIG).is_file():
            console.print("Interrupted before anything was written.")
            return None
        console.print(
            "Interrupted; no committed round is lost. Continue with: "
            f"fedbank simulate resume={shlex.quote(str(folder))}",
            highlight=False,
            soft_wrap=True,
        )
    return results


def _sweep(overrides: Sequence[str], console: Console, *, as_json: bool) -> int:
    """Run every combination under ``output=DIR`` (default: a dated folder), each in a folder of its own.

    The same sweep on the same folder continues: finished runs are skipped, interrupted ones resumed.
    """
    fixed = [o for o in overrides if not o.startswith("output=")]
    named = next((o.removeprefix("output=") for o in overrides if o.startswith("output=")), None)
    if any(o.startswith("resume=") for o in fixed):
        raise ConfigError("Expected either -m or resume=DIR, got both. Repeat the sweep's own command to continue it.")
    runs = expand_sweep(fixed)
    for run in runs:
        load_simulate(run)
    parent = _sweep_folder(named, runs)
    varied = {o for run in runs for o in run if sum(o in other for other in runs) < len(runs)}
    finished = []
    for number, run in enumerate(runs):
        folder = parent / (f"{number:03d}_" + "_".join(o.replace("/", "-") for o in run if o in varied))
        console.print(f"[{number + 1}/{len(runs)}] {folder.name}", style="bold", highlight=False, markup=False)
        began = (folder / CONFIG).is_file()
        results = _run([f"resume={folder}"] if began else [*run, f"output={folder}"], console)
        if results is None:
            return _EXIT_INTERRUPTED
        finished.append({"run": str(folder), "results": results})
    if as_json:
        sys.stdout.write(json.dumps(finished, indent=2, ensure_ascii=False) + "\n")
    console.print(
        f"{len(runs)} runs in {parent}. Draw them with: fedbank report {shlex.quote(str(parent))}",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _sweep_folder(named: str | None, runs: list[list[str]]) -> Path:
    """A new folder for the sweep, or the one in which this very sweep began."""
    plan = json.dumps(runs, indent=1).encode()
    if named is not None and (Path(named) / _SWEEP).is_file() and (Path(named) / _SWEEP).read_bytes() == plan:
        return Path(named)
    folder = choose_output(named)
    write_atomic(folder / _SWEEP, plan)
    return folder


@contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """While inside, SIGTERM and a Ctrl-C raise ``KeyboardInterrupt`` here and are visible to other threads."""
    asked: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _print_summary(results: dict[str, Any], console: Console) -> None:
    table = Table("on held-out customers", title="Results", title_justify="left")
    for heading in ("nll", "exact match", "records"):
        table.add_column(heading, justify="right")
    for name, label in _LABELS.items():
        values = results["evaluation"].get(name)
        if values is not None:
            exact = f"{100 * values['exact_match']:.1f} %"
            table.add_row(label, format_nll(values["nll"]), exact, str(values["n"]))
    console.print(table)
    console.print(_privacy_table(results))
    bank, values = next(iter(results["privacy"].items()))
    console.print(f"The promise of {bank} (results.json has all): {values['guarantee']}", highlight=False)
    console.print(
        f"{results['seconds']:.0f} s, {results['peak_rss_bytes'] / 2**30:.2f} GiB at most, "
        f"{results['bytes_up'] / 2**20:.1f} MiB up, {results['bytes_down'] / 2**20:.1f} MiB down",
        highlight=False,
    )


def _privacy_table(results: dict[str, Any]) -> Table:
    units = {values["unit"] for values in results["privacy"].values()} - {"none"}
    title = f"Privacy of every {' or '.join(sorted(units)) or 'customer'}"
    table = Table("bank", title=title, title_justify="left")
    for heading in ("epsilon", "delta", "noise multiplier", "sampling probability", "steps"):
        table.add_column(heading, justify="right")
    for name, values in results["privacy"].items():
        spent = (
            ("none", "none")
            if values["epsilon"] is None
            else (f"{round_up(values['epsilon']):.2f}", f"{values['delta']:.1e}")
        )
        noise = f"{values['noise_multiplier']:.2f}"
        table.add_row(name, *spent, noise, f"{values['sampling_prob']:.3f}", str(values["steps"]))
    return table


def _settings_help() -> str:
    """The groups with their options and the primary configuration, as they lie in conf/."""
    folder = config_dir()
    groups = "\n".join(
        f"  {group.name}=" + "|".join(sorted(path.stem for path in group.glob("*.yaml")))
        for group in sorted(folder.iterdir())
        if group.is_dir()
    )
    settings = to_yaml(load_simulate([]))
    return (
        f"choices:\n{groups}\n\nall settings with their defaults (nested names take dots: training.rounds=20); "
        f"conf/ explains each:\n\n{settings}\nexit codes: 0 done, 2 something to put right, 130 interrupted\n"
    )
