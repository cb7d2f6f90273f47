"""Texts of others on screens, in logs and in errors: never markup, a control character or another line."""

import io
import json
import logging
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from fedbank.aggregation.admit import MAX_REASON, Refused
from fedbank.cli import main
from fedbank.command_line import plain_console, print_json, say, tell
from fedbank.errors import FedBankError, UpdateError
from fedbank.evidence.entry import one_line
from fedbank.foreign import printable, printable_lines
from fedbank.release.errors import ReleaseError
from fedbank.supervision import log_to

HOSTILE = {
    "closing markup": "refused [/x]",
    "markup": "[bold red]Paid.[/bold red]",
    "a link": "[link=file:///etc/passwd]x[/link]",
    "an emoji code": ":skull:",
    "an escape sequence": "\x1b[2J\x1b[1;1Hroot@bank:~#",
    "a title of a window": "\x1b]0;owned\x07",
    "an 8-bit escape": "\x9b2J",
    "a forged line": "no\r\n2026-01-01 00:00:00,000 INFO fedbank.bank all is well",
    "a separator of lines": "a\u2028b\u2029c\x0bd\x0ce\x85f",
    "text from right to left": "transfer \u202eeurt\u202c",
    "nothing to be seen": "a\u200bb\ufeffc",
    "half a character": "\ud800",
    "NUL": "a\x00b",
    "a megabyte": "x" * 1_000_000,
}
WORDS = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
UNSAFE = set("\x1b\x07\x9b\r\x0b\x0c\x85\u2028\u2029\u202e\u202c\u200b\ufeff\ud800\x00")


@WORDS
def test_one_line_of_printable_characters_is_left_and_what_was_printable_stays(text: str) -> None:
    plain = printable(text)
    assert plain.isprintable() and len(plain) <= 4096
    assert [char for char in plain if char != "?"] == [char for char in text if char.isprintable()][:4093] + (
        ["."] * 3 if len(text) > 4096 else []
    )


def test_lines_and_tabs_of_our_own_are_kept() -> None:
    assert printable_lines("one\n\ttwo \x1b[2J") == "one\n\ttwo ?[2J"
    assert printable_lines("日本語 é") == "日本語 é"


@WORDS
def test_a_command_prints_it_as_it_stands(text: str) -> None:
    out, err, table = io.StringIO(), io.StringIO(), Table("bank", title=text)
    table.add_row(text)
    with redirect_stdout(out), redirect_stderr(err):
        say(text)
        tell(text)
        console = plain_console()
        console.print(table, text, Text("own"))
    for shown in (out.getvalue(), err.getvalue()):
        assert not UNSAFE & set(shown)
        shown.encode()
    if "[" in text and text.isprintable():
        assert text in err.getvalue() and text in out.getvalue().splitlines(), "brackets are no markup"


@WORDS
def test_json_keeps_the_very_value_and_shows_nothing_unsafe(text: str) -> None:
    out = io.StringIO()
    with redirect_stdout(out):
        print_json({"said": text})
    assert not UNSAFE & set(out.getvalue())
    assert json.loads(out.getvalue()) == {"said": text}


@WORDS
def test_a_log_has_one_line_for_it(text: str, tmp_path: Path) -> None:
    logger, raises = logging.getLogger("fedbank"), logging.raiseExceptions
    before = list(logger.handlers)
    log_to(tmp_path / "log")
    try:
        logging.getLogger("fedbank.bank").warning("refused: %s", text)
    finally:
        for handler in set(logger.handlers) - set(before):
            logger.removeHandler(handler)
            handler.close()
        logging.raiseExceptions = raises
    (line,) = (tmp_path / "log").read_bytes().decode().splitlines()
    assert line.isprintable() and "WARNING fedbank.bank refused: " in line and len(line) < 5000


@WORDS
def test_errors_and_what_is_kept_of_them_can_be_written_everywhere(text: str) -> None:
    for kept in (str(FedBankError(text)), str(UpdateError(f"got {text}")), str(ReleaseError("files", text))):
        assert not UNSAFE & set(kept)
        kept.encode()
    reason = Refused("bank-1", "schema", text).reason
    assert reason.isprintable() and len(reason) <= MAX_REASON
    assert one_line(text).isprintable() and len(one_line(text)) <= 300


def test_a_command_that_fails_with_it_ends_with_2_and_one_plain_message(tmp_path: Path) -> None:
    err = io.StringIO()
    with redirect_stderr(err):
        code = main(["client", "status", "--dir", str(tmp_path / "[/x]\x1b[2J\udcff")])
    assert code == 2 and "[/x]?[2J?" in err.getvalue() and not UNSAFE & set(err.getvalue())


def test_work_goes_on_when_whoever_watched_it_has_left() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with redirect_stderr(Gone()):
        tell("Round 1: 3 updates.")
