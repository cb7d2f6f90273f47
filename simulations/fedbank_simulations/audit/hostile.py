"""``fedbank audit hostile``: adapters that a liar could send, tried on this code, model and machine.

Unlike the other levels it draws no conclusion about epsilon: it looks for a customer who moves the clipped sum by more
than the clip norm, on which every epsilon rests. One is enough.
"""

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from fedbank.cli import EXIT_AUDIT_FAILED, EXIT_OK
from fedbank.config import SimulateConfig, load_simulate
from fedbank.durable import write_atomic
from fedbank.errors import ConfigError
from fedbank_simulations.audit.page import FIGURES
from fedbank_simulations.audit.workers import counted
from fedbank_simulations.folder import choose_output
from fedbank_simulations.strict_json import to_json

HOSTILE = "hostile"
HOSTILE_PURPOSE = "adapters made to let one customer move what the others contribute"
_EXITS = "exit codes: 0 no violation found, 3 a change of more than 1 clip norm, 2 something to put right"
_CUSTOMERS, _MOST_THREADS = 400, 1024


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What was searched, with what, and what the worst was; ``families`` in the order in which they are shown."""

    figures: dict[str, Any]
    families: list[dict[str, Any]]
    ok: bool


def hostile_command(words: Sequence[str]) -> int:
    """``fedbank audit hostile``; 3 if a customer moved the sum by more than the clip norm."""
    chosen = _parser().parse_intermixed_args(list(words))
    for option in ("adapters", "threads", "others"):
        _check_at_least_one(option, getattr(chosen, option))
    if chosen.threads > _MOST_THREADS:
        raise ConfigError(f"Expected --threads of at most {_MOST_THREADS}, got {chosen.threads}.")
    if not 0 < chosen.seconds < math.inf:
        raise ConfigError(f"Expected --seconds above 0, got {chosen.seconds}.")
    config = load_simulate([f"data.customers={_CUSTOMERS}", *chosen.overrides])
    output = None if config.output is None else choose_output(config.output)
    console = Console(stderr=chosen.json)
    outcome = _search(config, chosen, console)
    if output is not None:
        write_atomic(output / FIGURES, (to_json(_as_json(outcome), indent=2) + "\n").encode())
    if chosen.json:
        sys.stdout.write(to_json(_as_json(outcome), indent=2) + "\n")
    else:
        _show(outcome, console)
    if output is not None:
        console.print(f"Figures: {output / FIGURES}", highlight=False, soft_wrap=True)
    return EXIT_OK if outcome.ok else EXIT_AUDIT_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fedbank audit hostile", description=HOSTILE_PURPOSE, epilog=_EXITS)
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="output=DIR for the figures, and settings")
    parser.add_argument("--json", action="store_true", help="print one object and nothing else; progress on stderr")
    parser.add_argument("--adapters", type=int, default=70, metavar="N", help="at most so many (default 70)")
    parser.add_argument("--seconds", type=float, default=300.0, metavar="S", help="at most so long (default 300)")
    parser.add_argument("--others", type=int, default=16, metavar="U", help="customers beside the one who joins")
    parser.add_argument("--engine", choices=["direct", "opacus"], default=None, help="default: training.per_example")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of PyTorch (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of adapters, customers and orders (default 0)")
    return parser


def _search(config: SimulateConfig, chosen: argparse.Namespace, console: Console) -> _Outcome:
    """Late imports: PyTorch and transformers take seconds, and help and refusals need none of them."""
    import torch

    from fedbank.audit.hostile import search
    from fedbank.model.quiet import quiet_libraries
    from fedbank_simulations.audit.target import open_target

    quiet_libraries()
    torch.set_num_threads(chosen.threads)
    target = open_target(config, chosen.engine, chosen.others)
    began = time.monotonic()
    with counted(console, chosen.adapters, "adapters") as count:
        found = search(target, adapters=chosen.adapters, seconds=chosen.seconds, seed=chosen.seed, progress=count(0))
    families = [
        {
            "family": family,
            "worst_change": worst.change,
            "others_moved": worst.others_moved,
            "composition": worst.composition,
            "attack": {name: getattr(worst.attack, name) for name in ("layer", "size", "shape", "seed")},
        }
        for family, worst in found.worst.items()
    ]
    figures = {
        "worst_change": found.worst_change,
        "others_moved": found.others_moved,
        "bit_equal": found.others_moved == 0,
        "adapters_tried": found.adapters_tried,
        "compositions_tried": found.compositions_tried,
        "threads": torch.get_num_threads(),
        "engine": target.settings.per_example,
        "trainable": target.model.spec.trainable,
        "others": target.others,
        "seed": chosen.seed,
        "seconds": round(time.monotonic() - began, 2),
    }
    return _Outcome(figures, families, found.ok)


def _as_json(outcome: _Outcome) -> dict[str, Any]:
    return {"level": HOSTILE, **outcome.figures, "ok": outcome.ok, "families": outcome.families}


def _show(outcome: _Outcome, console: Console) -> None:
    table = Table("family", title="Audit: hostile adapters, in clip norms", title_justify="left")
    table.add_column("worst change", justify="right")
    table.add_column("others moved", justify="right")
    table.add_column("where")
    for row in outcome.families:
        table.add_row(row["family"], f"{row['worst_change']:.6f}", f"{row['others_moved']:.3g}", row["composition"])
    console.print(table)
    figures = outcome.figures
    if outcome.ok and figures["bit_equal"]:
        verdict = "Every customer added what they add alone, to the last bit: no violation found at this strength."
    elif outcome.ok:
        verdict = "No change of more than 1 clip norm found at this strength; but the others' share moved in some bits."
    else:
        verdict = f"ONE CUSTOMER MOVED THE SUM BY {figures['worst_change']:.3f} CLIP NORMS: the promise does not hold."
    console.print(
        f"{verdict} ({figures['adapters_tried']} adapters, {figures['compositions_tried']} compositions, "
        f"{figures['engine']}, {figures['threads']} threads, {figures['seconds']:.0f} s)",
        style="bold" if outcome.ok else "bold red",
        highlight=False,
        soft_wrap=True,
    )


def _check_at_least_one(option: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"Expected --{option} of 1 or more, got {value}.")
