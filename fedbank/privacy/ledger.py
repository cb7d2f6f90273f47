"""A bank's record of the privacy it has spent: append-only, on disk before any noise is drawn.

Stores what was executed (events), never an epsilon: the composition is the accountant's business. One JSON line per
charge, fsynced, so that a crash can cost budget but never hide a spend. The first line says whose ledger it is; every
other line holds the SHA-256 of the line before it. Beside ``NAME.jsonl``, ``NAME.head`` holds how many lines there are
and the hash of the last one.

A line is on disk before the head counts it, so after a crash the file is ahead of its head by one line, which then
counts as spent. Refused, with nothing charged, are: a line that was edited, removed, inserted or moved; a file that
was cut, at a line boundary too, or replaced by an older copy of itself (the head counts more lines); a file without
its head or a head without its file; another bank's ledger, or another ledger under this one's head.

Not detected here: an older copy of file *and* head together, a second copy of the folder that spends too, or a whole
ledger made up by somebody who may write here (there is no secret in the chain; anybody can compute it). The bank's
client notices the first two by the head that the coordinator saw last (``fedbank_client.standing``), and the first if
a finished update without a charge is left (``fedbank_client.bank``). Against the rest, write down now and then,
elsewhere, what ``fedbank client budget verify`` prints, or keep the folder on storage that only grows.
"""

import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from fedbank.durable import append_at, complete_length, open_locked, read_records, sync_folder, write_record
from fedbank.errors import PrivacyError

LEDGER = "ledger.jsonl"
"""The ledger's name in a bank's folder."""
FORMAT = "fedbank-ledger/1"
_HEADER = {"format": str, "bank": str, "id": str}
_ADVICE = (
    "A ledger must not be edited: put back the very files that were there, an older copy is refused as well. "
    "Nothing was charged and nothing was trained."
)

Mechanism = tuple[float, float]
"""Sampling probability and noise multiplier of a step."""
Steps = Mapping[str, Mapping[Mechanism, int]]
"""Executed steps by campaign and mechanism."""


@dataclass(frozen=True, slots=True)
class Charge:
    """What one round of one campaign is about to execute on the bank's customers.

    ``base_digest`` names the adapter it starts from. ``replay_id`` names the random stream if it can be drawn again
    (simulation and tests), ``None`` if not. ``unit`` is whose privacy it costs. ``time`` is when it was charged (UTC,
    ISO 8601), which the ledger fills in; it is no part of what was executed, so charges that differ in nothing else
    are equal.

    Raises:
        PrivacyError: no such steps can be executed (their epsilon would be negative, infinite or undefined).
    """

    campaign: str
    round: int
    base_digest: str
    plan_digest: str
    sampling_prob: float
    noise_multiplier: float
    num_steps: int
    replay_id: str | None
    unit: str = "customer"
    time: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        texts = (self.campaign, self.base_digest, self.plan_digest, self.replay_id or "", self.unit, self.time)
        sound = (
            all(isinstance(text, str) for text in texts)
            and type(self.round) is int
            and type(self.num_steps) is int
            and self.num_steps >= 1
            and all(type(number) in (int, float) for number in self.mechanism)
            and 0 < self.sampling_prob <= 1
            and 0 < self.noise_multiplier < math.inf
        )
        if not sound:
            raise PrivacyError(
                "Expected a charge for at least one step with a sampling probability in (0, 1] and a positive noise "
                f"multiplier, got {self.num_steps!r:.40}, {self.sampling_prob!r:.40} and {self.noise_multiplier!r:.40}."
            )

    @property
    def mechanism(self) -> Mechanism:
        """What one of its steps is, for the accountant."""
        return self.sampling_prob, self.noise_multiplier


class SpendingLimit(Protocol):
    """Whoever may refuse a charge because of what it would bring the bank's spending to."""

    def check(self, charge: Charge, spent: Steps) -> None:
        """``PrivacyError`` if ``charge`` must not follow on ``spent``."""


@dataclass(slots=True)
class Book:
    """What a verified ledger says: ``hashes`` of its lines, ``length`` in bytes, lines ``counted`` by its head."""

    bank: str = ""
    identity: str = ""
    charges: list[Charge] = field(default_factory=list)
    steps: dict[str, dict[Mechanism, int]] = field(default_factory=dict)
    hashes: list[str] = field(default_factory=list)
    length: int = 0
    counted: int = 0
    _plans: dict[str, str] = field(default_factory=dict)
    _streams: dict[str, Charge] = field(default_factory=dict)

    @property
    def lines(self) -> int:
        """Lines of the file, the first of which is no charge."""
        return len(self.hashes)

    @property
    def head(self) -> str:
        """The hash of the last line; empty for an empty ledger."""
        return self.hashes[-1] if self.hashes else ""

    def plan(self, campaign: str) -> str | None:
        """The digest of the plan that ``campaign`` began with."""
        return self._plans.get(campaign)

    def covered_by(self, replay_id: str) -> Charge | None:
        """The charge that a random stream belongs to."""
        return self._streams.get(replay_id)

    def add(self, line: bytes) -> None:
        """Take in the next line, without its newline.

        Raises:
            ValueError, TypeError, PrivacyError: it is no such line, or it does not follow on the one before.
        """
        record = json.loads(line)
        if self.identity:
            previous = record.pop("previous")
            if previous != self.head:
                raise ValueError("it does not follow on the line before it: one of the two was changed or moved")
            self._index(Charge(**record))
        else:
            if {name: type(value) for name, value in record.items()} != _HEADER or record["format"] != FORMAT:
                raise ValueError(f"no first line of {FORMAT}")
            self.bank, self.identity = record["bank"], record["id"]
        self.hashes.append(sha256(line).hexdigest())
        self.length += len(line) + 1

    def _index(self, charge: Charge) -> None:
        self.charges.append(charge)
        self._plans.setdefault(charge.campaign, charge.plan_digest)
        campaign = self.steps.setdefault(charge.campaign, {})
        campaign[charge.mechanism] = campaign.get(charge.mechanism, 0) + charge.num_steps
        if charge.replay_id is not None:
            self._streams.setdefault(charge.replay_id, charge)


class Ledger:
    """The charges of one ``bank``, in one JSON-lines file; ``limit`` may refuse more.

    Any number of threads and processes may share the file: a charge is decided and written under its lock. The file
    is read and verified when it was changed by somebody else, else only compared with what was left behind.
    ``sync=False`` is for simulations: a charge is then safe from a crash of the process, not of the machine.
    """

    def __init__(self, path: Path, bank: str, *, limit: SpendingLimit | None = None, sync: bool = True) -> None:
        self._path = path
        self._bank = bank
        self._limit = limit
        self._sync = sync
        self._book = Book()
        self._seen: object = None

    def charge(self, charge: Charge, *, max_steps: int) -> bool:
        """Record ``charge`` durably, before any noise is drawn; returns whether a new line was written.

        Computing the same release again (an equal charge with the same ``replay_id``) yields the same bytes and
        costs nothing. With a secure stream the noise would be fresh, so every execution is a charge of its own.

        Raises:
            PrivacyError: the campaign would pass ``max_steps`` steps or change its plan, the bank's limit would be
                passed, the same stream would cover two releases (their difference would be free of noise), or the
                ledger is damaged or cannot be written. Nothing is charged then.
        """
        with self._opened(write=True) as descriptor:
            book = self._verified(descriptor)
            if book.counted < book.lines:
                self._settle(descriptor, book)
            if charge.replay_id is not None:
                covered = book.covered_by(charge.replay_id)
                if covered == charge:
                    return False
                if covered is not None:
                    raise PrivacyError(
                        f"Expected a random stream of its own for round {charge.round} of {charge.campaign}, got one "
                        "that another release has used: their difference would carry no noise. Nothing was trained."
                    )
            self._check(book, charge, max_steps)
            self._write(descriptor, book, charge)
        return True

    def charges(self) -> list[Charge]:
        """All charges, oldest first."""
        had_head = _head_path(self._path).exists()  # asked first: it is made last
        if not self._path.exists():
            if had_head:
                _check_head(Book(), self._path, self._bank)
            return []
        with self._opened(write=False) as descriptor:
            return list(self._verified(descriptor).charges)

    def head(self) -> tuple[int, str]:
        """How many lines there are, and the hash of the last one (empty if there is none): all are on disk for good.

        Raises:
            PrivacyError: the ledger is damaged or cannot be read.
        """
        if not self.charges():
            return 0, ""
        with self._opened(write=True) as descriptor:
            book = self._verified(descriptor)
            if book.counted < book.lines:
                self._settle(descriptor, book)
            return book.lines, book.head

    def holds(self, lines: int, line_hash: str) -> bool:
        """Whether this ledger once had that head: its first ``lines`` lines are what they were then.

        Raises:
            PrivacyError: the ledger is damaged or cannot be read.
        """
        if lines == 0:
            return True
        if not self.charges():  # reads what is there now
            return False
        return lines <= self._book.lines and self._book.hashes[lines - 1] == line_hash

    def _check(self, book: Book, charge: Charge, max_steps: int) -> None:
        plan = book.plan(charge.campaign)
        if plan is not None and plan != charge.plan_digest:
            raise PrivacyError(
                f"Expected round {charge.round} of {charge.campaign} under the plan of its earlier rounds, "
                "got another plan, whose epsilon would not count them. Begin a new campaign. Nothing was trained."
            )
        if book.charges and book.charges[0].unit != charge.unit:
            raise PrivacyError(
                f"Expected a campaign that protects every {book.charges[0].unit}, as all in this ledger do, got one "
                f"that protects every {charge.unit}: their epsilons are about different things and do not compose. "
                "Keep such campaigns in a folder of their own. Nothing was trained."
            )
        spent = sum(book.steps.get(charge.campaign, {}).values())
        if spent + charge.num_steps > max_steps:
            raise PrivacyError(
                f"Round {charge.round} would bring {charge.campaign} to {spent + charge.num_steps} private steps; "
                f"the plan accounts for {max_steps}. End the campaign. Nothing was trained and nothing was sent."
            )
        if self._limit is not None:
            self._limit.check(charge, book.steps)

    def _verified(self, descriptor: int) -> Book:
        seen = self._fingerprint(descriptor)
        if seen != self._seen:
            book = _read(descriptor, self._path, self._bank)
            self._book, self._seen = book, seen
        return self._book

    def _settle(self, descriptor: int, book: Book) -> None:
        """After a crash: its line may not be on disk, and its head, one line behind, must never be two behind."""
        self._seen = None
        os.fsync(descriptor)
        self._write_head(book)
        self._seen = self._fingerprint(descriptor)

    def _write(self, descriptor: int, book: Book, charge: Charge) -> None:
        self._seen = None  # whatever fails from here on, the file is read again before it is trusted
        if not book.lines:
            self._append(descriptor, book, {"format": FORMAT, "bank": self._bank, "id": secrets.token_hex(16)})
            if self._sync:
                sync_folder(self._path.parent)
        dated = replace(charge, time=datetime.now(UTC).isoformat(timespec="seconds"))
        self._append(descriptor, book, {"previous": book.head, **asdict(dated)})
        self._seen = self._fingerprint(descriptor)

    def _append(self, descriptor: int, book: Book, record: dict[str, Any]) -> None:
        line = json.dumps(record, sort_keys=True).encode()
        append_at(descriptor, book.length, line, sync=self._sync)
        book.add(line)
        self._write_head(book)

    def _write_head(self, book: Book) -> None:
        head = {"lines": book.lines, "hash": book.head}
        write_record(_head_path(self._path), book.lines, json.dumps(head).encode(), sync=self._sync)
        book.counted = book.lines

    def _fingerprint(self, descriptor: int) -> object:
        """Changes with anybody's change of the file or its head (its times do even if its size does not)."""
        status = os.fstat(descriptor)
        times = status.st_mtime_ns, status.st_ctime_ns
        return status.st_dev, status.st_ino, status.st_size, times, read_records(_head_path(self._path))

    @contextmanager
    def _opened(self, *, write: bool) -> Iterator[int]:
        try:
            if write:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            with open_locked(self._path, write=write) as descriptor:
                yield descriptor
        except OSError as error:
            raise _unusable(self._path, error) from error


def read_ledger(path: Path) -> Book:
    """The verified content of anybody's ledger, for looking at; ``PrivacyError`` if it is damaged or missing."""
    try:
        with open_locked(path, write=False) as descriptor:
            return _read(descriptor, path, None)
    except OSError as error:
        raise _unusable(path, error) from error


def _head_path(path: Path) -> Path:
    return path.with_suffix(".head")


def _unusable(path: Path, error: OSError) -> PrivacyError:
    return PrivacyError(
        f"Expected to use the privacy ledger {path.name}, got: {error.strerror or error}. "
        "Free space, mend the permissions or wait for the other process. Nothing was trained and nothing was sent."
    )


def _read(descriptor: int, path: Path, bank: str | None) -> Book:
    """Everything in the open file, verified against itself and its head."""
    content = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    book = Book()
    for number, line in enumerate(content[: complete_length(content)].split(b"\n")[:-1], start=1):
        try:
            book.add(line)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, PrivacyError) as error:
            what = "a charge" if number > 1 else "the ledger's heading"
            raise PrivacyError(
                f"Expected {what} in line {number} of the privacy ledger {path.name}, got something else ({error}). "
                f"{_ADVICE}"
            ) from error
    if bank is not None and book.identity and book.bank != bank:
        raise PrivacyError(
            f"Expected the privacy ledger of {bank} in {path.name}, got that of {book.bank}. "
            "Give every bank a folder of its own. Nothing was charged and nothing was trained."
        )
    _check_head(book, path, bank or book.bank)
    return book


def _check_head(book: Book, path: Path, bank: str) -> None:
    name = _head_path(path).name
    try:
        heads = [(int(head["lines"]), str(head["hash"])) for head in map(json.loads, read_records(_head_path(path)))]
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise PrivacyError(f"Expected the head of the ledger of {bank} in {name}, got {error}. {_ADVICE}") from error
    counted, head = max(heads, default=(0, ""))
    book.counted = counted
    if not max(0, book.lines - 1) <= counted <= book.lines:
        raise PrivacyError(
            f"Expected the privacy ledger of {bank} in {path.name} to have {counted} lines, as {name} says, "
            f"got {book.lines}: one of the two was lost, cut or replaced by an older copy. {_ADVICE}"
        )
    if counted and book.hashes[counted - 1] != head:
        raise PrivacyError(
            f"Expected line {counted} of the privacy ledger of {bank} as it was written, got another. {_ADVICE}"
        )
