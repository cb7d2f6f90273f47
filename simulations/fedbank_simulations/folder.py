"""The output folder of a run: who may write into it, and what it holds."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from fedbank.durable import write_atomic
from fedbank.errors import RunError

CONFIG, RESULTS = "config.yaml", "results.json"


def choose_output(output: str | None) -> Path:
    """The folder for a new run; ``RunError`` if it is taken. Nothing is created."""
    if output is None:
        stamp = datetime.now(UTC).strftime("%Y-%m-%d_%H-%M-%S")
        candidates = [Path("runs") / stamp, *(Path("runs") / f"{stamp}_{n}" for n in range(2, 1000))]
        return next(folder for folder in candidates if not folder.exists())
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise RunError(f"Expected output={folder} to be a folder, got a file. Name a new folder.")
    if (folder / CONFIG).exists():
        raise RunError(
            f"Expected a new or empty folder as output, got {folder}, which holds another run. "
            f"Continue that one with resume={folder}, or name another folder."
        )
    if folder.exists() and any(folder.iterdir()):
        raise RunError(
            f"Expected a new or empty folder as output, got {folder}, which holds other files. Name another."
        )
    return folder


def open_run(folder: Path) -> str:
    """The settings of the run in ``folder``; ``RunError`` if there is none."""
    try:
        return (folder / CONFIG).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(
            f"Expected resume={folder} to be the folder of an earlier run with its {CONFIG}, got none. "
            "Name the folder that fedbank simulate printed."
        ) from error


@contextmanager
def claimed(folder: Path, settings: str) -> Iterator[None]:
    """Create ``folder`` with its settings if it is new, and keep every other process out of it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"Expected {folder} to be free, got a run that is still going on in it. Wait or stop it."
            ) from error
        if not (folder / CONFIG).exists():
            write_atomic(folder / CONFIG, settings.encode())
        yield
    finally:
        os.close(lock)
