"""The folder of a consortium or a bank: where it is, how it comes into being at once, and its small files."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from fedbank.durable import open_locked, sync_folder
from fedbank.errors import RunError
from fedbank.membership.signed import MAX_DOCUMENT, DocumentError

HOME_VARIABLE = "FEDBANK_HOME"
_LOCK = ".lock"


def choose_folder(given: Path | None, marker: str, create: str) -> Path:
    """``given``, else that of the environment variable FEDBANK_HOME, else the current one, if it holds ``marker``.

    Raises:
        RunError: it does not; ``create`` is the command that makes such a folder.
    """
    folder = given or Path(os.environ.get(HOME_VARIABLE) or ".")
    if not (folder / marker).is_file():
        raise RunError(
            f"Expected a folder with {marker}, got {folder.absolute()}. Give --dir DIR, set {HOME_VARIABLE}, or make "
            f"one: {create}"
        )
    return folder


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder of its owner's only, that becomes ``target`` when the block ends well and vanishes when it does not.

    A process that is killed leaves a hidden ``.NAME.*`` beside ``target``, never a ``target`` that is half done.

    Raises:
        RunError: there is something at ``target`` already.
    """
    _refuse_existing(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        yield building
        sync_folder(building)
        _refuse_existing(target)
        building.rename(target)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    sync_folder(target.parent)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody else changes the members, invitations or keys of ``folder`` at the same time, in any process."""
    with open_locked(folder / _LOCK, write=True):
        yield


def read_document(path: Path) -> bytes:
    """The content of a document's file, never more than a document can have.

    Raises:
        DocumentError: there is no such file.
    """
    try:
        with path.open("rb") as file:
            return file.read(MAX_DOCUMENT + 1)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise DocumentError(f"Expected a file at {path}, got none. Check its name.") from None


def utc(moment: datetime) -> str:
    """ISO 8601 in UTC, to the second."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def _refuse_existing(target: Path) -> None:
    if os.path.lexists(target):
        raise RunError(f"Expected a new folder, got {target}, which exists. Choose another; nothing was changed.")
