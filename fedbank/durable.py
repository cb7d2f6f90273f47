"""Files that are either there whole or not there at all, whatever happens to the process."""

import os
import tempfile
from pathlib import Path


def write_atomic(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write ``content`` so that ``path`` holds the old bytes or the new ones, never a part.

    Temporary file in the same folder, fsync, rename, fsync of the folder (rename(2) is atomic on POSIX).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def append_durable(path: Path, line: bytes) -> None:
    """Append one ``line`` (without its newline) and return only when it is on disk; a new file is its owner's only.

    A last line that a crash cut short (no newline) is dropped first: its writer never returned.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with os.fdopen(os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o600), "ab") as file:
        file.truncate(_complete_length(path))
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        _sync_folder(path.parent)


def read_lines(path: Path) -> list[bytes]:
    """The complete lines of an append-only file, without newlines; a cut last line is left out."""
    if not path.exists():
        return []
    return path.read_bytes()[: _complete_length(path)].splitlines()


def _complete_length(path: Path) -> int:
    content = path.read_bytes()
    return content.rfind(b"\n") + 1


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
