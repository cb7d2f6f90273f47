"""What a log says, verified line by line: the rules that reading, appending and verifying share. No files, no clock.

A log is two sequences of lines: entries, and checkpoints that each sign the tree over all entries so far. A checkpoint
comes with the leaf hashes since the one before it: if they lead to the signed root, the first entry that differs from
them is the first that was changed.
"""

import base64
import binascii
import json
from collections.abc import Iterator
from itertools import islice, pairwise

from fedbank.evidence.entry import Entry
from fedbank.evidence.errors import EvidenceError
from fedbank.evidence.note import Checkpoint, read_checkpoint
from fedbank.evidence.tree import HASH_BYTES, Edge, leaf_hash

INTERVAL = 100
"""At most so many entries are without a checkpoint."""
MAX_CHECKPOINT_BYTES = 1 << 14
_ADVICE = "A log must not be edited: put back the files that were there, and ask who could write here."


class Trail:
    """The verified part of a log so far; ``public_key`` None leaves signatures unchecked.

    ``entries`` and ``checkpoints`` are counted; ``length`` and ``checkpoint_length`` are the bytes of both files that
    they take; ``unsigned`` are the leaf hashes since the last ``checkpoint``, whose signed ``note`` is at hand.
    """

    def __init__(self, public_key: bytes | None, origin: str | None) -> None:
        self._public_key = public_key
        self._origin = origin
        self._edge, self._signed = Edge(), Edge()
        self.unsigned: list[bytes] = []
        self.checkpoint: Checkpoint | None = None
        self.note = ""
        self.checkpoints = self.length = self.checkpoint_length = 0
        self.oldest_unsigned = ""

    @property
    def entries(self) -> int:
        """How many entries there are."""
        return self._edge.size

    @property
    def signed(self) -> int:
        """How many of them the last checkpoint counts."""
        return self._signed.size

    def root(self) -> bytes:
        """The root over all entries."""
        return self._edge.root()

    def follow(self, entries: Iterator[bytes], checkpoints: Iterator[bytes]) -> None:
        """Take in the lines that follow on those known.

        Raises:
            EvidenceError: names the first bad entry. The trail must not be used any more.
        """
        for line in checkpoints:
            self.add_checkpoint(line, entries)
        for line in entries:
            self.add_entry(line)
            if len(self.unsigned) > INTERVAL:
                raise EvidenceError(
                    f"Expected a checkpoint after at most {INTERVAL} entries, got none since entry {self.signed}: "
                    f"checkpoints were removed. {_ADVICE}",
                    self.signed,
                )

    def add_entry(self, line: bytes) -> None:
        """Take in the next entry, without its newline; ``EvidenceError`` if it is none or has another number."""
        number = self.entries
        try:
            entry = Entry.from_line(line)
        except (ValueError, TypeError, AttributeError, EvidenceError) as error:
            raise EvidenceError(
                f"Expected entry {number} of the log, got another line ({error!s:.200}). {_ADVICE}", number
            ) from error
        if entry.seq != number:
            raise EvidenceError(
                f"Expected entry {number} of the log, got number {entry.seq} in its place: entries were removed, "
                f"inserted or moved. {_ADVICE}",
                number,
            )
        self.take(entry, line)

    def take(self, entry: Entry, line: bytes) -> None:
        """Take in an entry that is known to be the next one, written as ``line``."""
        leaf = leaf_hash(line)
        self._edge.add(leaf)
        self.oldest_unsigned = self.oldest_unsigned if self.unsigned else entry.utc
        self.unsigned.append(leaf)
        self.length += len(line) + 1

    def add_checkpoint(self, line: bytes, entries: Iterator[bytes]) -> None:
        """Take in the next checkpoint and, from ``entries``, what it counts; ``EvidenceError`` if they differ."""
        note, leaves = self._read(line)
        checkpoint = self._verified(note)
        if checkpoint.size != self.signed + len(leaves) or not 1 <= len(leaves) <= INTERVAL:
            raise self._bad_checkpoint(f"it counts {checkpoint.size} entries and lists {len(leaves)} new ones.")
        after = self._signed.copy()
        for leaf in leaves:
            after.add(leaf)
        if after.root() != checkpoint.root:
            raise self._unexplained(checkpoint, entries)
        for number, leaf in enumerate(leaves):
            self._compare(number, leaf, checkpoint.size, entries)
        self._signed, self.checkpoint, self.note = after, checkpoint, note
        del self.unsigned[: len(leaves)]
        self.checkpoints += 1
        self.checkpoint_length += len(line) + 1

    def _verified(self, note: str) -> Checkpoint:
        origin = self._origin if self.checkpoint is None else self.checkpoint.origin
        try:
            return read_checkpoint(note, self._public_key, origin)
        except EvidenceError as error:
            raise self._bad_checkpoint(str(error)) from error

    def _read(self, line: bytes) -> tuple[str, list[bytes]]:
        try:
            if len(line) > MAX_CHECKPOINT_BYTES:
                raise ValueError("it is too long")
            record = json.loads(line)
            note, joined = record["note"], base64.b64decode(record["leaves"], validate=True)
            if not isinstance(note, str) or checkpoint_line(note, joined) != line:
                raise ValueError("it is not written in canonical form")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, binascii.Error) as error:
            raise self._bad_checkpoint(f"{error!s:.200}.") from error
        bounds = range(0, len(joined) + 1, HASH_BYTES)
        return note, [joined[start:end] for start, end in pairwise(bounds)]

    def _compare(self, number: int, leaf: bytes, size: int, entries: Iterator[bytes]) -> None:
        """The ``number``-th entry since the last checkpoint has the hash ``leaf``; it is read first if need be."""
        index = self.signed + number
        if index == self.entries:
            line = next(entries, None)
            if line is None:
                raise EvidenceError(
                    f"Expected {size} entries, as checkpoint {self.checkpoints} signed, got {index}: the log was cut. "
                    f"{_ADVICE}",
                    index,
                )
            self.add_entry(line)
        if self.unsigned[number] != leaf:
            raise EvidenceError(
                f"Expected entry {index} as checkpoint {self.checkpoints} signed it, got one that was changed, "
                f"inserted or moved. {_ADVICE}",
                index,
            )

    def _unexplained(self, checkpoint: Checkpoint, entries: Iterator[bytes]) -> EvidenceError:
        """The listed hashes are not those that were signed; are the entries?"""
        actual, missing = self._signed.copy(), checkpoint.size - self.entries
        for leaf in [*self.unsigned, *map(leaf_hash, islice(entries, missing))]:
            actual.add(leaf)
        if actual.root() == checkpoint.root:
            return self._bad_checkpoint("its list of hashes was changed, the entries were not.")
        return EvidenceError(
            f"Expected the entries {self.signed} to {checkpoint.size - 1} that checkpoint {self.checkpoints} signed, "
            f"got others in at least one place; its list of hashes was changed too. {_ADVICE}",
            self.signed,
        )

    def _bad_checkpoint(self, why: str) -> EvidenceError:
        return EvidenceError(
            f"Expected checkpoint {self.checkpoints} of the log, got one that cannot be relied on: {why} Entries from "
            f"{self.signed} on are not vouched for. {_ADVICE}",
            self.signed,
        )


def checkpoint_line(note: str, leaves: bytes) -> bytes:
    """A checkpoint as it is stored, without its newline: the note, and the leaf hashes since the one before it."""
    record = {"leaves": base64.b64encode(leaves).decode(), "note": note}
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
