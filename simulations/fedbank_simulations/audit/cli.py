"""``fedbank audit mechanism|gradient|hostile|canary|mia``."""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fedbank.audit.finding import Finding
from fedbank.audit.mechanism import Trials, audit_invalid_gradient, audit_mechanism
from fedbank.cli import EXIT_AUDIT_FAILED, EXIT_OK, EXIT_USER_ERROR
from fedbank.command_line import plain_console
from fedbank.config import SimulateConfig, load_simulate
from fedbank.errors import ConfigError, RunError
from fedbank.model.quiet import quiet_libraries
from fedbank.privacy.accounting import round_up
from fedbank.privacy.plan import PrivacyPlan, Sampling
from fedbank_simulations.audit.hostile import HOSTILE, HOSTILE_PURPOSE, hostile_command
from fedbank_simulations.audit.page import Audit, write_page
from fedbank_simulations.audit.workers import counted, processes
from fedbank_simulations.folder import choose_output
from fedbank_simulations.strict_json import to_json

_CUSTOMERS, _BATCH, _CLIP_NORM, _DELTA = 1000, 8.0, 0.2, 1e-5
_MIN_TRIALS = 1000
_MOST_STEPS = 100_000
_MOST_EPSILON = 100.0
"""A broken promise of more would take more trials to notice than anybody can run."""
_SMALL = (
    "data.customers=600",
    "banks=2",
    "training.rounds=30",
    "training.optimizer=adam",
    "training.learning_rate=0.01",
    "held_out.monitored_records=20",
)
"""In place of the demo's: small enough for a minute, and trained long enough to learn single customers by heart."""

_EXITS = "exit codes: 0 no violation found, 3 a bound exceeds its claim, 2 something to put right"


def audit_command(words: Sequence[str]) -> int:
    """Attack the code or an adapter and compare with the claim; the exit code."""
    if words and words[0] == HOSTILE:
        return hostile_command(words[1:])
    if not words or words[0] not in _LEVELS:
        asked = bool(words) and words[0] in ("-h", "--help")
        said = "" if asked or not words else f"Expected an audit ({', '.join(_purposes())}), got {words[0]!r}.\n"
        (sys.stdout if asked else sys.stderr).write(said + _usage())
        return EXIT_OK if asked else EXIT_USER_ERROR
    level, (purpose, add_options, run) = words[0], _LEVELS[words[0]]
    parser = argparse.ArgumentParser(prog=f"fedbank audit {level}", description=purpose, epilog=_EXITS)
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="output=DIR for the page, and settings")
    parser.add_argument("--json", action="store_true", help="print one object and nothing else; progress on stderr")
    parser.add_argument("--confidence", type=float, default=0.99 if level == "mechanism" else 0.95, metavar="SHARE")
    add_options(parser)
    chosen = parser.parse_intermixed_args(list(words[1:]))
    if not 0.5 < chosen.confidence < 1:
        raise ConfigError(f"Expected --confidence between 0.5 and 1, got {chosen.confidence}.")
    console = plain_console(stderr=chosen.json)
    began = time.monotonic()
    if level != "mechanism":  # which needs no transformers, and their import takes seconds
        quiet_libraries()
    findings, output = run(chosen, console)
    audit = Audit(level, findings, time.monotonic() - began)
    page = None if output is None else write_page(audit, output)
    return conclude(audit, page, console, as_json=chosen.json)


def _usage() -> str:
    rows = "".join(f"  {name:<10} {purpose}\n" for name, purpose in _purposes().items())
    return f"usage: fedbank audit LEVEL ...   (fedbank audit LEVEL --help tells more)\n\n{rows}\n{_EXITS}\n"


def _purposes() -> dict[str, str]:
    return {**{name: purpose for name, (purpose, _, _) in _LEVELS.items()}, HOSTILE: HOSTILE_PURPOSE}


def conclude(audit: Audit, page: Path | None, console: Console, *, as_json: bool) -> int:
    """Say what was found; the exit code."""
    if as_json:
        sys.stdout.write(to_json(audit.as_json(), indent=2) + "\n")
    else:
        table = Table("attack", "bound", title=f"Audit: {audit.level}", title_justify="left")
        for heading in ("epsilon at least", "claim", "confidence"):
            table.add_column(heading, justify="right")
        for finding in audit.findings:
            claim = "none" if finding.epsilon_claimed is None else f"{round_up(finding.epsilon_claimed):.2f}"
            for number, bound in enumerate(finding.bounds):
                name, decides = (finding.name, " (decides)") if number == 0 else ("", "")
                share = f"{100 * bound.confidence:.3g} %"
                table.add_row(name, bound.method + decides, f"{bound.epsilon:.2f}", claim, share)
        console.print(table)
        for finding in audit.findings:
            attack = finding.attack()
            (low, high), (low_tpr, high_tpr) = attack.auc_interval, attack.tpr_at_1_fpr_interval
            console.print(
                f"{finding.name}: {finding.trials} trials, area under ROC {attack.auc:.3f} ({low:.3f} to {high:.3f}), "
                f"true positives at 1 % false {100 * attack.tpr_at_1_fpr:.1f} % "
                f"({100 * low_tpr:.1f} to {100 * high_tpr:.1f} %)",
                highlight=False,
                soft_wrap=True,
            )
    style = "bold" if audit.ok else "bold red"
    console.print(f"{audit.leading().verdict()} ({audit.seconds:.0f} s)", style=style, highlight=False, soft_wrap=True)
    if page is not None:
        console.print(f"Page: {page}", highlight=False, soft_wrap=True)
    return EXIT_OK if audit.ok else EXIT_AUDIT_FAILED


_Found = tuple[list[Finding], Path | None]


def _plan_options(parser: argparse.ArgumentParser, *, steps: int | None) -> None:
    parser.add_argument("--epsilon", type=float, default=None, help="of the audited plan (default 4)")
    parser.add_argument("--delta", type=float, default=_DELTA)
    parser.add_argument(
        "--sampling-prob", type=float, default=None, metavar="Q", help="default 1: everybody takes part"
    )
    parser.add_argument("--steps", type=int, default=steps, metavar="T", help="of the audited plan")


def _mechanism_options(parser: argparse.ArgumentParser) -> None:
    _plan_options(parser, steps=None)
    parser.add_argument("--trials", type=int, default=60_000, help="whole campaigns, half with the audited customer")
    parser.add_argument("--workers", type=int, default=2, help="processes")


def _mechanism(chosen: argparse.Namespace, console: Console) -> _Found:
    """The plan asked for; without any, one step of everybody and two sampled steps."""
    output = _only_output(chosen.overrides)
    _check_plan(chosen)
    _check_number("--trials", chosen.trials, _MIN_TRIALS)
    _check_number("--workers", chosen.workers, 1)
    named = {name: getattr(chosen, name) for name in ("epsilon", "sampling_prob", "steps")}
    wanted = {"epsilon": 4.0, "sampling_prob": 1.0, "steps": 1} | {k: v for k, v in named.items() if v is not None}
    jobs: list[tuple[Callable[[PrivacyPlan, Trials, float], Finding], PrivacyPlan, int]] = [
        (audit_mechanism, _toy_plan(chosen.delta, **wanted), chosen.trials)
    ]
    if not any(value is not None for value in named.values()):
        jobs += [(audit_mechanism, _toy_plan(chosen.delta, 8.0, 0.5, 2), chosen.trials // 4)]
    one_step = _toy_plan(chosen.delta, wanted["epsilon"], 1.0, 1)
    jobs += [(audit_invalid_gradient, one_step, max(_MIN_TRIALS, chosen.trials // 50))]
    # Together they raise a false alarm as often as one alone would.
    confidence = 1 - (1 - chosen.confidence) / len(jobs)
    with counted(console, sum(trials for _, _, trials in jobs)) as count, processes(chosen.workers) as run:
        return [
            audit(plan, Trials(trials, run=run, progress=count(number)), confidence)
            for number, (audit, plan, trials) in enumerate(jobs)
        ], output


def _toy_plan(delta: float, epsilon: float, sampling_prob: float, steps: int) -> PrivacyPlan:
    sampling = Sampling(sampling_prob, _BATCH, 1, steps)
    return PrivacyPlan.calibrate(epsilon, delta, sampling, _CLIP_NORM, _CUSTOMERS)


def _gradient_options(parser: argparse.ArgumentParser) -> None:
    _plan_options(parser, steps=10)
    parser.add_argument("--canaries", type=int, default=1000, metavar="M", help="2 or more")
    parser.add_argument("--customers", type=int, default=64, metavar="N", help="real ones beside them")


def _gradient(chosen: argparse.Namespace, console: Console) -> _Found:
    from fedbank_simulations.audit.training import audit_training

    _check_plan(chosen)
    _check_number("--canaries", chosen.canaries, 2)
    _check_number("--customers", chosen.customers, 1)
    config = load_simulate([f"data.customers={chosen.customers}", *chosen.overrides])
    _check_promise(config)
    output = None if config.output is None else _free_folder(config.output)
    sampling_prob = 1.0 if chosen.sampling_prob is None else chosen.sampling_prob
    epsilon = 4.0 if chosen.epsilon is None else chosen.epsilon
    expected = max(1.0, sampling_prob * chosen.customers)
    sampling = Sampling(sampling_prob, expected, config.training.records_per_customer, chosen.steps)
    clip_norm = config.privacy.clip_norm or _CLIP_NORM
    plan = PrivacyPlan.calibrate(epsilon, chosen.delta, sampling, clip_norm, _CUSTOMERS)
    console.print(f"Training {chosen.steps} steps with {chosen.canaries} canary gradients ...", highlight=False)
    return [audit_training(config, plan, chosen.canaries, chosen.customers, chosen.confidence)], output


def _adapter_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bank", default=None, metavar="NAME", help="whose customers (default: the smallest bank)")
    parser.add_argument("--full", action="store_true", help="train as fedbank simulate does, not a small consortium")


def _canary_options(parser: argparse.ArgumentParser) -> None:
    _adapter_options(parser)
    parser.add_argument("--canaries", type=int, default=100, metavar="M", help="each in or out by a coin")
    parser.add_argument("--against", choices=["off"], default=None, help="the same without privacy, side by side")


def _canary(chosen: argparse.Namespace, console: Console) -> _Found:
    from fedbank_simulations.audit.audience import MIN_CANDIDATES
    from fedbank_simulations.audit.run import Attack, audit_canaries

    _check_number("--canaries", chosen.canaries, MIN_CANDIDATES)
    config, output = _settings(chosen)
    attack = Attack(chosen.canaries, chosen.bank, chosen.confidence)
    return audit_canaries(config, attack, output, console, against_off=chosen.against == "off"), output


def _mia_options(parser: argparse.ArgumentParser) -> None:
    _adapter_options(parser)
    parser.add_argument(
        "--run", type=Path, default=None, metavar="DIR", help="a finished run; default: train a new one"
    )
    parser.add_argument(
        "--candidates", type=int, default=100, metavar="M", help="customers whose membership is guessed"
    )
    parser.add_argument("--shadows", type=int, default=4, metavar="N", help="reference adapters to train; 0 for none")


def _mia(chosen: argparse.Namespace, console: Console) -> _Found:
    from fedbank_simulations.audit.run import Attack, audit_finished_run, audit_members

    attack = Attack(chosen.candidates, chosen.bank, chosen.confidence)
    if chosen.run is not None:
        output = _only_output(chosen.overrides) or _free_folder(None)
        return audit_finished_run(chosen.run, attack, chosen.shadows, output, console), output
    config, output = _settings(chosen)
    return audit_members(config, attack, chosen.shadows, output, console), output


def _settings(chosen: argparse.Namespace) -> tuple[SimulateConfig, Path]:
    """Those of ``fedbank simulate`` with overrides, on a small consortium unless ``--full``; and a new folder."""
    config = load_simulate([*(() if chosen.full else _SMALL), *chosen.overrides])
    output = _free_folder(config.output)
    config.output = str(output)
    return config, output


def _only_output(overrides: Sequence[str]) -> Path | None:
    """The folder named by ``output=DIR``; every other word is refused."""
    folders = [word.removeprefix("output=") for word in overrides if word.startswith("output=")]
    if len(folders) != len(overrides) or len(folders) > 1:
        raise ConfigError(f"Expected nothing but options and output=DIR, got {' '.join(overrides)}.")
    return _free_folder(folders[0]) if folders else None


def _free_folder(named: str | None) -> Path:
    """The folder for the page, found to be writable before the audit begins; nothing is created."""
    folder = choose_output(named)
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise RunError(
            f"Expected output={folder} to be a folder that can be written, got: {error.strerror} at {there}. Name "
            "another, or mend the permissions."
        ) from error
    return folder


def _check_number(option: str, value: int, low: int, high: int | None = None) -> None:
    if value < low or (high is not None and value > high):
        expected = f"of {low} or more" if high is None else f"from {low} to {high}"
        raise ConfigError(f"Expected {option} {expected}, got {value}.")


def _check_plan(chosen: argparse.Namespace) -> None:
    """Before a plan is calibrated, which takes longer the more steps it has."""
    if chosen.steps is not None:
        _check_number("--steps", chosen.steps, 1, _MOST_STEPS)
    if chosen.epsilon is not None and not 0 < chosen.epsilon <= _MOST_EPSILON:
        raise ConfigError(
            f"Expected --epsilon above 0 and at most {_MOST_EPSILON:g}, got {chosen.epsilon:g}: whether a weaker "
            "promise is kept, no audit can tell."
        )


def _check_promise(config: SimulateConfig) -> None:
    """The gradient audit makes a plan of its own, for customers: other promises would be left unheard."""
    if not config.privacy.enabled:
        raise ConfigError(
            "Expected privacy to be on, whose promise this audit tests, got privacy=off. Leave it out; fedbank audit "
            "canary --against off shows training without privacy."
        )
    if config.privacy.unit != "customer":
        raise ConfigError(
            f"Expected privacy.unit=customer, whose promise this audit tests, got {config.privacy.unit}. Leave it out."
        )


_LEVELS: dict[
    str, tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace, Console], _Found]]
] = {
    "mechanism": ("sample, clip, sum, noise and round on adversarial gradients", _mechanism_options, _mechanism),
    "gradient": ("canary gradients in one real training run", _gradient_options, _gradient),
    "canary": ("made-up customers in the training data, judged by the final adapter", _canary_options, _canary),
    "mia": ("real customers, members or not, judged by the final adapter", _mia_options, _mia),
}
