"""Words that commands of both sides share, and how commands answer: one line, a table, or one JSON object.

Whatever a command prints may hold the text of somebody else. So nothing here is markup, and no character that a
terminal would obey goes out (``fedbank.foreign``).
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedbank.foreign import printable_lines

if TYPE_CHECKING:
    from rich.console import Console


def add_folder(parser: argparse.ArgumentParser) -> None:
    """``--dir DIR``"""
    parser.add_argument("--dir", type=Path, metavar="DIR", help="default: FEDBANK_HOME, or the current folder")


def add_json(parser: argparse.ArgumentParser) -> None:
    """``--json``"""
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def say(text: str) -> None:
    """Print a sentence or a few lines."""
    sys.stdout.write(printable_lines(text) + "\n")


def tell(text: str) -> None:
    """A line on stderr, about work that goes on whether anybody reads it or not."""
    with contextlib.suppress(OSError):
        sys.stderr.write(printable_lines(text) + "\n")
        sys.stderr.flush()


def plain_console(*, stderr: bool = False) -> "Console":
    """A console for tables and styled lines that takes no text for markup or emoji codes."""
    from rich.console import Console  # takes a moment, and most commands print no table
    from rich.text import Text

    class PlainConsole(Console):
        """Everything that is a text goes through here, in cells and titles of tables too."""

        def render_str(self, text: str, **options: Any) -> Text:
            """``text`` as it stands."""
            return super().render_str(printable_lines(text), **{**options, "markup": False, "emoji": False})

    return PlainConsole(stderr=stderr, markup=False, emoji=False, highlight=False)


def print_json(value: Mapping[str, Any]) -> None:
    """Print one object; ``ValueError`` for infinity and NaN, which are not JSON."""
    written = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    say("".join(char if char.isprintable() or char == "\n" else _escaped(char) for char in written))


def _escaped(char: str) -> str:
    """As JSON writes what may stand in a text only (RFC 8259, section 7): the value stays the same."""
    units = char.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def now() -> datetime:
    """The moment at which a command was given, in UTC."""
    return datetime.now(UTC)
