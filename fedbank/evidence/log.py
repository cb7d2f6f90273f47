"""The log of evidence (docs/formats/evidence.md): entries in ``NAME.jsonl``, ``NAME.checkpoints`` beside it.

An entry is on disk before ``append`` returns; a checkpoint is written after the entries it counts. Both files only
grow, and a last line that a crash cut short is dropped.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType

from fedbank.durable import append_at, open_locked, sync_folder
from fedbank.evidence.entry import Entry, one_line, stamp
from fedbank.evidence.errors import EvidenceError
from fedbank.evidence.files import checkpoints_of, follow_files, read_entry_lines, read_leaves, read_page, unusable
from fedbank.evidence.note import Checkpoint, Key, check_name, read_checkpoint, sign_checkpoint
from fedbank.evidence.trail import INTERVAL, Trail, checkpoint_line
from fedbank.evidence.tree import prove_consistency

EVIDENCE = "evidence.jsonl"
"""The log's name in a folder."""
MAX_AGE = timedelta(seconds=60)
"""An entry that is older gets its checkpoint with the next entry, if not before."""


class EvidenceLog:
    """An append-only log, signed with ``key`` in the name of ``origin``. Threads and processes may share it.

    Read and verified once, at first use; from then on only what others appended is read. ``sync=False`` leaves the
    entries since the last checkpoint to a power cut, never to a killed process.

    Raises (every method):
        EvidenceError: the log is damaged (names the first bad entry) or cannot be written; the entry may then be in
            the log, but the caller must not go on as if it were.
    """

    def __init__(
        self,
        path: Path,
        origin: str,
        key: Key,
        *,
        sync: bool = True,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        check_name(origin)
        self._path = path
        self._origin = origin
        self._key = key
        self._sync = sync
        self._clock = clock
        self._trail = Trail(key.public.raw, origin)
        self._file: tuple[int, int] | None = None

    def append(self, action: str, object_digest: str, result: str, actor: str) -> int:
        """Record that ``actor`` did ``action`` to ``object_digest`` with this ``result``; returns the entry's number.

        ``result`` is cut to one printable line; the other three must be of the form that ``Entry`` asks for.
        """
        return self.append_all([(action, object_digest, result, actor)])

    def append_all(self, records: Sequence[tuple[str, str, str, str]]) -> int:
        """Record several at once, each as ``append`` takes it, in this order; returns the first entry's number.

        They wait for the disk together. A crash or an error in between leaves the first few of them in the log.
        """
        if not records:
            return self._trail.entries
        with self._opened() as descriptor:
            first, left = self._trail.entries, list(records)
            while left:
                if len(self._trail.unsigned) >= INTERVAL:  # a crash came between an entry and its checkpoint
                    self._sign(descriptor)
                room = INTERVAL - len(self._trail.unsigned) % INTERVAL
                self._append(descriptor, left[:room])
                del left[:room]
        return first

    def _append(self, descriptor: int, records: Sequence[tuple[str, str, str, str]]) -> None:
        """As many as one checkpoint can count."""
        trail, now = self._trail, self._clock()
        entries = [
            Entry(trail.entries + number, stamp(now), actor, action, object_digest, one_line(result))
            for number, (action, object_digest, result, actor) in enumerate(records)
        ]
        lines, is_new = [entry.line() for entry in entries], trail.entries == 0
        append_at(descriptor, trail.length, b"\n".join(lines), sync=self._sync)
        for entry, line in zip(entries, lines, strict=True):
            trail.take(entry, line)
        if self._sync and is_new:
            sync_folder(self._path.parent)
        if len(trail.unsigned) >= INTERVAL or now - datetime.fromisoformat(trail.oldest_unsigned) >= MAX_AGE:
            self._sign(descriptor)

    def entries(self, action: str) -> list[Entry]:
        """All entries of one ``action``, oldest first; reads the log."""
        with self._opened():
            lines = read_entry_lines(self._path)
        return [entry for entry in map(Entry.from_line, lines) if entry.action == action]

    def page(self, first: int, limit: int) -> list[Entry]:
        """At most ``limit`` entries from number ``first`` on, as they are in the file; nobody who appends waits."""
        try:
            return [Entry.from_line(line) for line in read_page(self._path, first, limit)]
        except FileNotFoundError:
            return []
        except OSError as problem:
            raise unusable(self._path, problem) from problem
        except (ValueError, TypeError):
            raise EvidenceError(
                f"Expected entries in {self._path}, got another line. Verify it: fedbank evidence."
            ) from None

    def checkpoint(self) -> str:
        """The signed note over everything that is in the log now."""
        with self._opened() as descriptor:
            if self._trail.unsigned:
                self._sign(descriptor)
            if not self._trail.entries:
                return sign_checkpoint(Checkpoint(self._origin, 0, self._trail.root()), self._key)
            return self._trail.note

    def prove_growth(self, first: int) -> tuple[str, list[bytes]]:
        """The newest checkpoint, and the proof that it only adds to the first ``first`` entries; reads the log."""
        note = self.checkpoint()
        size = read_checkpoint(note, None).size
        return note, prove_consistency(read_leaves(self._path)[:size] if size else [], first)

    def close(self) -> None:
        """Sign what has no checkpoint yet."""
        if self._trail.unsigned:
            self.checkpoint()

    def __enter__(self) -> "EvidenceLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """The locked file, with everything in it known."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open_locked(self._path, write=True) as descriptor:
                self._catch_up(descriptor)
                yield descriptor
        except OSError as error:
            raise unusable(self._path, error) from error

    def _catch_up(self, descriptor: int) -> None:
        status, trail = os.fstat(descriptor), self._trail
        file, beside = (status.st_dev, status.st_ino), _size(checkpoints_of(self._path))
        cut = status.st_size < trail.length or beside < trail.checkpoint_length
        if cut or self._file not in (None, file):
            raise EvidenceError(
                f"Expected {self._path.name} to be the file that this process appends to, got one that was cut or "
                "replaced. Stop, put back the files that were there, and ask who could write here."
            )
        self._file = file
        if (status.st_size, beside) == (trail.length, trail.checkpoint_length):
            return
        try:
            follow_files(trail, self._path)
        except BaseException:
            self._trail, self._file = Trail(self._key.public.raw, self._origin), None  # to be read from the start
            raise

    def _sign(self, descriptor: int) -> None:
        """A checkpoint over all entries, which are on disk first: it never counts more than the file holds."""
        trail = self._trail
        os.fsync(descriptor)
        note = sign_checkpoint(Checkpoint(self._origin, trail.entries, trail.root()), self._key)
        line = checkpoint_line(note, b"".join(trail.unsigned))
        beside = os.open(checkpoints_of(self._path), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            append_at(beside, trail.checkpoint_length, line)
        finally:
            os.close(beside)
        if not trail.checkpoints:
            sync_folder(self._path.parent)
        trail.add_checkpoint(line, iter(()))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
