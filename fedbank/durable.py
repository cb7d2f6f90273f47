"""Files that are either there whole or not there at all, whatever happens to the process or to the machine.

``sync=False`` leaves out the machine: a killed process still loses nothing, a power cut may. For simulations, whose
every round would otherwise wait for the disk."""

import errno
import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SLOT = 256
"""Bytes of one of the two slots of a replaced record: less than a disk sector, so that a write is never torn."""


def write_atomic(path: Path, content: bytes, *, mode: int = 0o644, sync: bool = True) -> None:
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
            if sync:
                os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if sync:
        sync_folder(path.parent)


def append_durable(path: Path, line: bytes, *, sync: bool = True) -> None:
    """Append one ``line`` (without its newline) and return only when it is on disk; a new file is its owner's only.

    A last line that a crash cut short (no newline) is dropped first: its writer never returned.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        append_at(descriptor, complete_length(path.read_bytes()), line, sync=sync)
    finally:
        os.close(descriptor)
    if is_new and sync:
        sync_folder(path.parent)


def append_at(descriptor: int, length: int, line: bytes, *, sync: bool = True) -> None:
    """Cut the open file to ``length`` bytes, write ``line`` and a newline there and return when they are on disk.

    If the disk is full or fails, the file is cut to ``length`` again and the ``OSError`` goes on.
    """
    os.ftruncate(descriptor, length)
    try:
        _write_all(descriptor, line + b"\n", length)
        if sync:
            os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, length)
        raise


def read_lines(path: Path) -> list[bytes]:
    """The complete lines of an append-only file, without newlines; a cut last line is left out."""
    if not path.exists():
        return []
    content = path.read_bytes()
    return content[: complete_length(content)].splitlines()


def complete_length(content: bytes) -> int:
    """Bytes up to and with the last newline: what follows was cut short by a crash."""
    return content.rfind(b"\n") + 1


@contextmanager
def open_locked(path: Path, *, write: bool, patience_s: float = 30.0) -> Iterator[int]:
    """Open ``path`` as a file descriptor that nobody else has at the same time (readers share it).

    The lock is the kernel's (flock(2)) on the file itself: it ends with its process, however that ends, and holds
    between threads too. ``write`` creates a missing file, its owner's only.

    Raises:
        OSError: the file cannot be opened; ``TimeoutError`` if others hold it for ``patience_s`` seconds.
    """
    deadline, pause_s = time.monotonic() + patience_s, 0.0005
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT if write else os.O_RDONLY, 0o600)
        try:
            if _try_lock(descriptor, exclusive=write) and _is_at(descriptor, path):
                yield descriptor
                return
        finally:
            os.close(descriptor)
        if time.monotonic() > deadline:
            raise TimeoutError(errno.ETIMEDOUT, "another process does not let go of it", str(path))
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.02)


def is_held(path: Path) -> bool:
    """Whether a process has ``path`` open for writing (``open_locked``) now; one that cannot be opened is nobody's."""
    try:
        with open_locked(path, write=False, patience_s=0.0):
            return False
    except TimeoutError:
        return True
    except OSError:
        return False


def write_record(path: Path, number: int, content: bytes, *, sync: bool = True) -> None:
    """Replace the record in ``path`` in place by record ``number`` (at most 190 bytes) and return when it is on disk.

    Records take turns between two slots with a checksum each: a torn write leaves the one before. The file has its
    full size from the start, so that a full disk cannot refuse a later record.
    """
    slot = hashlib.sha256(content).hexdigest().encode() + b" " + content
    if len(slot) >= _SLOT:
        raise ValueError(f"expected at most {_SLOT - 66} bytes, got {len(content)}")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if os.fstat(descriptor).st_size < 2 * _SLOT:
            _write_all(descriptor, (b" " * (_SLOT - 1) + b"\n") * 2, 0)
        _write_all(descriptor, slot.ljust(_SLOT - 1) + b"\n", number % 2 * _SLOT)
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_records(path: Path) -> list[bytes]:
    """The intact records of ``write_record``, none to two, in no particular order."""
    if not path.exists():
        return []
    records = []
    for slot in path.read_bytes().split(b"\n"):
        checksum, _, content = slot.rstrip(b" ").partition(b" ")
        if content and hashlib.sha256(content).hexdigest().encode() == checksum:
            records.append(content)
    return records


def sync_folder(folder: Path) -> None:
    """Return when the names in ``folder`` are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, content: bytes, at: int) -> None:
    """A write to a disk that is nearly full is cut short before the next one fails."""
    while content:
        written = os.pwrite(descriptor, content, at)
        content, at = content[written:], at + written


def _try_lock(descriptor: int, *, exclusive: bool) -> bool:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file still has its name: it may have been replaced while its lock was waited for."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
