"""``fedbank evidence``: verify and show a log of evidence, of either side."""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from fedbank.command_line import add_json, plain_console, print_json, say
from fedbank.evidence.entry import Entry
from fedbank.evidence.errors import EvidenceError
from fedbank.evidence.files import read_entry_lines, unusable
from fedbank.evidence.log import EVIDENCE
from fedbank.evidence.tree import HASH_BYTES
from fedbank.evidence.verify import Verified, verify_log

_USAGE = """usage: fedbank evidence COMMAND ...   (fedbank evidence COMMAND --help tells more)

  verify PATH   check every entry and checkpoint; exits with 2 and names the first bad entry
  show PATH     the last entries, for reading
"""
_DIGEST = re.compile(r"[0-9a-f]{32,}")


def evidence_command(words: Sequence[str]) -> int:
    """Run the command that ``words`` name; the exit code. A damaged log is an ``EvidenceError``."""
    match list(words):
        case ["verify", *rest]:
            return _verify(rest)
        case ["show", *rest]:
            return _show(rest)
        case [] | ["-h" | "--help" | "help", *_]:
            sys.stdout.write(_USAGE)
            return 0
        case unknown:
            sys.stderr.write(f"Expected a command (verify, show), got {unknown[0]!r}. See fedbank evidence --help.\n")
            return 2


def _verify(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="fedbank evidence verify",
        description="Checks every entry against the signed checkpoints; exits with 2 and names the first bad entry.",
        epilog="Without --key signatures are not checked. Keep the printed checkpoint elsewhere: --seen FILE shows "
        "that the log still goes on from it, which nothing in the log's own folder can prove.",
    )
    _add_arguments(parser)
    parser.add_argument("--seen", type=Path, action="append", default=[], metavar="FILE", help="an earlier checkpoint")
    chosen = parser.parse_args(list(words))
    path, key = _log(chosen.path), _key(chosen.key)
    verified = verify_log(path, key, [_read_note(file) for file in chosen.seen])
    if chosen.json:
        print_json({**asdict(verified), "signatures_checked": key is not None, "seen": len(chosen.seen)})
    else:
        say(f"{path} is intact: {_summary(verified, key)}")
        sys.stdout.write(f"\n{verified.note}" if verified.note else "")
    return 0


def _show(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="fedbank evidence show",
        description="Shows the last entries of a log, then what verifying it found; exits with 2 if it is damaged.",
    )
    _add_arguments(parser)
    parser.add_argument("--last", type=_count, default=20, metavar="N", help="how many entries (default: 20)")
    chosen = parser.parse_args(list(words))
    path, key = _log(chosen.path), _key(chosen.key)
    damage, verified = None, None
    try:
        verified = verify_log(path, key)
    except EvidenceError as error:
        damage = error
    rows = _last_entries(path, chosen.last)
    if chosen.json:
        state = {"intact": damage is None, "damage": damage and str(damage), "first_bad": damage and damage.index}
        print_json({"entries": [row.fields() if isinstance(row, Entry) else None for row in rows], **state})
    else:
        _print_table(path, rows)
        if verified is not None:
            say(f"Intact: {_summary(verified, key)}")
    if damage is not None:
        raise damage
    return 0


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, metavar="PATH", help=f"the log, or a folder with {EVIDENCE}")
    parser.add_argument("--key", metavar="HEX", help="public key of the log's owner: 64 hexadecimal digits")
    add_json(parser)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 6 or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected how many entries, from 1 to 999999, got {text!r:.40}")
    return int(text)


def _log(path: Path) -> Path:
    return path / EVIDENCE if path.is_dir() else path


def _key(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != HASH_BYTES:
        raise EvidenceError(f"Expected a public key of 64 hexadecimal digits after --key, got {text!r:.80}.")
    return key


def _read_note(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise EvidenceError(f"Expected a checkpoint in {path}, got bytes that are no text.") from error
    except OSError as error:
        raise unusable(path, error) from error


def _last_entries(path: Path, count: int) -> list[Entry | bytes]:
    """The last ``count`` lines; one that is no entry stays as it is."""
    try:
        lines = read_entry_lines(path, last=count)
    except OSError as error:
        raise unusable(path, error) from error
    return [_parse(line) for line in lines]


def _parse(line: bytes) -> Entry | bytes:
    try:
        return Entry.from_line(line)
    except (ValueError, TypeError, AttributeError, EvidenceError):
        return line


def _summary(verified: Verified, key: bytes | None) -> str:
    signatures = "checked" if key is not None else "NOT checked (give --key)"
    return (
        f"{verified.entries} entries, of which {verified.signed} are signed by {verified.checkpoints} checkpoints; "
        f"signatures {signatures}; root {verified.root}."
    )


def _print_table(path: Path, rows: Sequence[Entry | bytes]) -> None:
    table = Table(title=f"Evidence in {path}")
    for name in ("seq", "utc", "actor", "action", "object", "result"):
        whole = name in ("seq", "utc", "object")
        table.add_column(name, overflow="fold", no_wrap=whole, justify="right" if name == "seq" else "left")
    for row in rows:
        if isinstance(row, Entry):
            cells = [str(row.seq), row.utc[:19], row.actor, row.action, _shortened(row.object), row.result]
        else:
            cells = ["?", "", "", "", "", f"not an entry: {row!r:.80}"]
        table.add_row(*cells)
    plain_console().print(table)


def _shortened(name: str) -> str:
    """Digests by their first digits; names as they are."""
    return f"{name[:12]}…" if _DIGEST.fullmatch(name) else name
