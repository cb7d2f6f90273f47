"""What all benchmarks print and keep: one line of figures with the machine that they were measured on."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

REPORTS = Path(__file__).parent / "reports"


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    import torch  # late: whoever measures memory does not want it

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
