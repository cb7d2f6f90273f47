"""A copy of the coordinator's whole folder in one file, and a folder from such a copy.

The file is a plain tar (POSIX ustar) whose last member, ``MANIFEST.json``, has the SHA-256 of every other; under a
passphrase it is sealed (``sealed_stream``). Restoring reads header by header: only folders and regular files below the
new folder exist for it, so that a made-up archive can create nothing else and nowhere else.
"""

import contextlib
import hashlib
import json
import os
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from fedbank.durable import sync_folder, write_atomic
from fedbank.errors import RunError
from fedbank.membership.folders import locked, new_folder
from fedbank.sealing.keys import SigningKey
from fedbank.sealing.roster import sign_roster
from fedbank_server.consortium import CONSORTIUM, Files, note
from fedbank_server.members import active_members
from fedbank_server.sealed_stream import MAGIC, SealedWriter, Sink, read_sealed

MANIFEST = "MANIFEST.json"
_PIECE = 1 << 20
_BLOCK = tarfile.BLOCKSIZE
_MAX_MANIFEST = 64 << 20
_SQLITE = b"SQLite format 3\0"
_SQLITE_SIDES = ("-wal", "-shm", "-journal")
_JUMP = 1000
"""By how much a restored roster's sequence number rises: banks refuse a roster older than the newest they know."""


@dataclass(frozen=True, slots=True)
class Summary:
    """``left_out``: names of links and special files, which no backup holds."""

    files: int
    size: int
    left_out: tuple[str, ...] = ()


def back_up(folder: Path, target: Path, passphrase: bytes | None) -> Summary:
    """Write a backup of ``folder`` to the new file ``target``, its owner's only; it appears when it is whole.

    A running server may go on: databases are copied consistently, logs up to their end at that moment. Membership
    commands wait meanwhile.

    Raises:
        RunError: ``target`` exists or lies in ``folder``.
    """
    if target.exists() or target.absolute().is_relative_to(folder.absolute()):
        raise RunError(f"Expected a new file outside {folder}, got {target}. Choose another.")
    descriptor, temporary = tempfile.mkstemp(dir=target.absolute().parent, prefix=f".{target.name}.")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file, locked(folder):
            sealed = SealedWriter(file, passphrase) if passphrase else None
            summary = _archive(folder, sealed or file, Path(temporary))
            if sealed is not None:
                sealed.close()
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, target)  # unlike a rename, never over a file that came meanwhile
        sync_folder(target.absolute().parent)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return summary


def restore(source: Path, folder: Path, passphrase: bytes | None) -> Summary:
    """Make the new ``folder`` from the backup in ``source``; it appears when every checksum is right.

    The roster is signed anew with a sequence number that no bank has seen yet.

    Raises:
        RunError: ``folder`` exists, the passphrase is another, or the backup is damaged or not one of ours.
    """
    try:
        file = source.open("rb")
    except FileNotFoundError:
        raise RunError(f"Expected a backup at {source}, got none. Check its name.") from None
    with file, new_folder(folder) as building:
        sums, manifest, size = _extract(_Pieces(_open(file, passphrase)), building)
        if manifest != sums or CONSORTIUM not in sums:
            raise _damaged("files whose checksums are those in its manifest")
        _renew_roster(building)
    return Summary(len(sums), size)


def _archive(folder: Path, target: Sink, scratch: Path) -> Summary:
    sums: dict[str, str] = {}
    left_out: list[str] = []
    size = 0
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name == ".lock" or path.name.endswith(_SQLITE_SIDES):
            continue
        if path.is_dir() and not path.is_symlink():
            target.write(_header(name, 0, tarfile.DIRTYPE))
        elif not path.is_file() or path.is_symlink():
            left_out.append(name)
        else:
            with contextlib.suppress(FileNotFoundError), _steady(path, scratch) as file:
                sums[name] = _add(target, name, file)
                size += os.fstat(file.fileno()).st_size
    content = json.dumps({"format": "fedbank-backup/1", "files": sums}, sort_keys=True).encode()
    target.write(_header(MANIFEST, len(content), tarfile.REGTYPE) + content + bytes(-len(content) % _BLOCK))
    target.write(bytes(2 * _BLOCK))
    return Summary(len(sums), size, tuple(left_out))


@contextlib.contextmanager
def _steady(path: Path, scratch: Path) -> Iterator[BinaryIO]:
    """``path`` opened for reading; of a database a consistent copy beside ``scratch``, whoever writes meanwhile."""
    with path.open("rb") as file:
        if file.read(len(_SQLITE)) != _SQLITE:
            file.seek(0)
            yield file
            return
    copy = scratch.with_name(f"{scratch.name}.db")
    try:
        copy.touch(0o600)
        with contextlib.closing(sqlite3.connect(path)) as old, contextlib.closing(sqlite3.connect(copy)) as new:
            old.backup(new)
        with copy.open("rb") as file:
            yield file
    except sqlite3.Error as error:
        raise RunError(
            f"Expected a database that can be read at {path}, got: {error}. Stop the server first."
        ) from None
    finally:
        copy.unlink(missing_ok=True)


def _add(target: Sink, name: str, file: BinaryIO) -> str:
    """Write one file as long as it is now, and not what is appended meanwhile; its SHA-256."""
    length = left = os.fstat(file.fileno()).st_size
    target.write(_header(name, length, tarfile.REGTYPE))
    digest = hashlib.sha256()
    while left:
        piece = file.read(min(left, _PIECE))
        if not piece:
            raise RunError(f"Expected {name} to stay as it is while it is read, got a shorter file. Try again.")
        target.write(piece)
        digest.update(piece)
        left -= len(piece)
    target.write(bytes(-length % _BLOCK))
    return digest.hexdigest()


def _header(name: str, size: int, kind: bytes) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.type, entry.mode = size, kind, 0o700 if kind == tarfile.DIRTYPE else 0o600
    try:
        return entry.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
    except ValueError:
        raise RunError(f"Expected a plain short file name in the folder, got {name!r:.200}. Rename it.") from None


def _open(file: BinaryIO, passphrase: bytes | None) -> Iterator[bytes]:
    sealed = file.read(len(MAGIC)) == MAGIC
    if sealed != (passphrase is not None):
        raise RunError(
            "Expected a passphrase, since this backup is sealed, got none. Give --passphrase-file or --passphrase."
            if sealed
            else "Expected a sealed backup for this passphrase, got a plain file. Check which backup it is."
        )
    if passphrase is not None:
        return read_sealed(file, passphrase)
    file.seek(0)
    return iter(lambda: file.read(_PIECE), b"")


class _Pieces:
    """Takes exactly as many bytes as asked from a stream of chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._waiting = chunks, b""

    def take(self, count: int) -> bytes:
        """At most ``_PIECE`` bytes."""
        while len(self._waiting) < count:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise _damaged("more bytes")
            self._waiting += chunk
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    def finish(self) -> None:
        """Read to the end: only there is the last chunk's mark."""
        for chunk in (self._waiting, *self._chunks):
            if chunk.strip(b"\0"):
                raise _damaged("nothing behind the manifest")


def _extract(pieces: _Pieces, folder: Path) -> tuple[dict[str, str], dict[str, str], int]:
    """Checksums of what was written, those of the manifest, and bytes written."""
    sums: dict[str, str] = {}
    size = 0
    while True:
        entry = _entry(pieces.take(_BLOCK))
        if entry.type == tarfile.REGTYPE and entry.name == MANIFEST:
            manifest = _manifest(pieces, entry.size)
            pieces.finish()
            return sums, manifest, size
        path = folder / _inside(entry.name)
        if entry.type == tarfile.DIRTYPE and not entry.size:
            _make_folder(path)
        elif entry.type == tarfile.REGTYPE:
            sums[entry.name] = _write(pieces, path, entry.size)
            size += entry.size
        else:
            raise _damaged("only folders and regular files")


def _entry(block: bytes) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "ascii", "strict")
    except (tarfile.HeaderError, ValueError):
        raise _damaged("whole headers") from None


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts or "\\" in name or "\0" in name:
        raise _damaged("only names inside the folder")
    return path


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(mode=0o700)
    except (FileExistsError, FileNotFoundError, NotADirectoryError):
        raise _damaged("every folder once, before what is in it") from None


def _write(pieces: _Pieces, path: Path, size: int) -> str:
    digest, left = hashlib.sha256(), size
    if size < 0 or not path.parent.is_dir():
        raise _damaged("folders before the files in them")
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise _damaged("every file once") from None
    with os.fdopen(descriptor, "wb") as file:
        while left:
            piece = pieces.take(min(left, _PIECE))
            file.write(piece)
            digest.update(piece)
            left -= len(piece)
        file.flush()
        os.fsync(file.fileno())
    pieces.take(-size % _BLOCK)
    return digest.hexdigest()


def _manifest(pieces: _Pieces, size: int) -> dict[str, str]:
    if not 0 <= size <= _MAX_MANIFEST:
        raise _damaged("a manifest")
    content = b"".join(pieces.take(min(_PIECE, size - start)) for start in range(0, size, _PIECE))
    pieces.take(-size % _BLOCK)
    try:
        return dict(json.loads(content)["files"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _damaged("a manifest") from None


def _renew_roster(folder: Path) -> None:
    files = Files(folder)
    roster = active_members(folder)
    after = replace(roster, sequence=roster.sequence + _JUMP)
    coordinator = SigningKey.load(files.coordinator_key)
    note(files, roster.consortium, coordinator, "folder-restored", "roster", f"now number {after.sequence}")
    write_atomic(files.roster, sign_roster(after, coordinator))


def _damaged(expected: str) -> RunError:
    return RunError(f"Expected a whole FedBank backup with {expected}, got something else. Nothing was restored.")
