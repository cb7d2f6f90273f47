"""The two files of a log, read line by line in bounded memory."""

from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from fedbank.evidence.entry import MAX_LINE_BYTES
from fedbank.evidence.errors import EvidenceError
from fedbank.evidence.trail import MAX_CHECKPOINT_BYTES, Trail
from fedbank.evidence.tree import leaf_hash


def checkpoints_of(path: Path) -> Path:
    """Where the checkpoints of the log ``path`` are."""
    return path.with_suffix(".checkpoints")


def follow_files(trail: Trail, path: Path) -> None:
    """Take in what the files hold beyond what ``trail`` knows; the caller has locked ``path``."""
    with ExitStack() as stack:
        entries = stack.enter_context(path.open("rb"))
        entries.seek(trail.length)
        checkpoints: Iterator[bytes] = iter(())
        if checkpoints_of(path).exists():
            beside = stack.enter_context(checkpoints_of(path).open("rb"))
            beside.seek(trail.checkpoint_length)
            checkpoints = _lines(beside, MAX_CHECKPOINT_BYTES)
        trail.follow(_lines(entries, MAX_LINE_BYTES), checkpoints)


def read_entry_lines(path: Path, *, last: int | None = None) -> list[bytes]:
    """The lines of the ``last`` entries (default: of all), unverified, without newlines."""
    with path.open("rb") as file:
        return list(deque(_lines(file, MAX_LINE_BYTES), maxlen=last))


def read_page(path: Path, first: int, most: int) -> list[bytes]:
    """The lines of at most ``most`` entries from number ``first`` on, unverified, without newlines."""
    with path.open("rb") as file:
        return list(islice(_lines(file, MAX_LINE_BYTES), first, first + most))


def read_leaves(path: Path) -> list[bytes]:
    """The leaf hashes of all entries, unverified: what proofs are made from."""
    with path.open("rb") as file:
        return [leaf_hash(line) for line in _lines(file, MAX_LINE_BYTES)]


def unusable(path: Path, error: OSError) -> EvidenceError:
    """What a person can do about a log that cannot be read or written."""
    advice = "Free space, mend the permissions or wait for the other process."
    if isinstance(error, FileNotFoundError):
        advice = "Name the log itself or the folder of a bank or coordinator."
    return EvidenceError(f"Expected to use the log of evidence {path}, got: {error.strerror or error}. {advice}")


def _lines(file: BinaryIO, limit: int) -> Iterator[bytes]:
    """Lines without newlines; one that is longer than ``limit`` is cut, one that a crash cut short is left out."""
    while piece := file.readline(limit + 2):
        if not piece.endswith(b"\n") and len(piece) <= limit:
            return
        yield piece.removesuffix(b"\n")
