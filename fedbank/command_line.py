"""Words that commands of both sides share, and how commands answer: one line, or one JSON object."""

import argparse
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def add_folder(parser: argparse.ArgumentParser) -> None:
    """``--dir DIR``"""
    parser.add_argument("--dir", type=Path, metavar="DIR", help="default: FEDBANK_HOME, or the current folder")


def add_json(parser: argparse.ArgumentParser) -> None:
    """``--json``"""
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def say(text: str) -> None:
    """Print a sentence or a few lines."""
    sys.stdout.write(text + "\n")


def print_json(value: Mapping[str, Any]) -> None:
    """Print one object; ``ValueError`` for infinity and NaN, which are not JSON."""
    say(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def now() -> datetime:
    """The moment at which a command was given, in UTC."""
    return datetime.now(UTC)
