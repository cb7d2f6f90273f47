"""Reading what somebody else put into a model's folder: regular files only, of bounded size. No torch."""

import json
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any

from fedbank.errors import ModelError

MOST_BYTES = 64 << 20
"""Of any file but weights."""


def unreadable(path: Path, error: Exception) -> ModelError:
    """What a person is told when the operating system, or a parser, cannot read ``path``."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is damaged"
    return ModelError(f"Expected to read the base model at {path}, got: {reason}. Copy the model again.")


def opened(path: Path) -> BufferedReader:
    """The file at ``path``, or where a link there leads, to read from.

    Raises:
        ModelError: there is none, or it is a pipe or a device, which may never end.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # never waits for whoever writes into a pipe
    except OSError as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ModelError(f"Expected a file at {path}, got something else. Copy the model again.")
    return os.fdopen(descriptor, "rb")


def read_small(path: Path) -> bytes:
    """Everything in the file at ``path``.

    Raises:
        ModelError: as ``opened``, or it is larger than 64 MiB.
    """
    try:
        with opened(path) as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise unreadable(path, error) from error
    if len(content) > MOST_BYTES:
        raise ModelError(f"Expected at most {MOST_BYTES} bytes in {path}, got more. Copy the model again.")
    return content


def parse_object(content: bytes, path: Path) -> dict[str, Any]:
    """The JSON object in ``content``; ``path`` says where it is from.

    Raises:
        ModelError: it is none, or names something twice, which two parsers would read as two things.
    """
    try:
        found = json.loads(content, object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"Expected JSON in {path} that names everything once, got something else: it is damaged. Copy the model "
            "again."
        ) from error
    if not isinstance(found, dict):
        raise ModelError(f"Expected a JSON object in {path}, got something else. Copy the model again.")
    return found


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name twice")
    return found
