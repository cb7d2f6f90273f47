"""Batch jobs: many questions that nobody waits for, in the store until each is answered, once.

Workers claim an item, answer it and record the answer. A worker that dies loses its claim (at its next start at once,
else when the claim runs out) and the item is worked on again; of two answers the store takes the first. An item at
which workers die again and again is given up.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ColumnElement, and_, func, insert, select, update

from fedbank.errors import FedBankError
from fedbank.serving.store.records import Records, Transaction
from fedbank.serving.store.tables import JOB_ITEMS, JOBS

ItemState = Literal["waiting", "answered", "failed", "cancelled", "expired"]


class JobError(FedBankError):
    """A job that is too large, of which there are too many, or that this owner does not have."""


class ManyJobsError(JobError):
    """The owner has as many jobs that are not over as anybody may have."""


class UnknownJobError(JobError):
    """No job of this id for this owner; the two cases are not told apart."""


@dataclass(frozen=True, slots=True)
class JobLimits:
    """``open_jobs``: per owner, with items that wait. ``max_attempts``: claims of one item before it is given up."""

    max_items: int = 1000
    max_characters: int = 8000
    open_jobs: int = 4
    lifetime: timedelta = timedelta(days=1)
    claim: timedelta = timedelta(minutes=5)
    max_attempts: int = 3


@dataclass(frozen=True, slots=True)
class Asked:
    """One question of a batch, and the customer whose it is."""

    customer: str = field(repr=False)
    question: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a job. ``answer`` is empty unless it is answered; ``request_id`` is that of its audit entry.

    ``owner``: whose job it is, as a pseudonym.
    """

    job_id: str
    number: int
    state: ItemState
    customer: str = field(repr=False)
    question: str = field(repr=False)
    answer: str = field(default="", repr=False)
    request_id: str = ""
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """How many items of a job are where; ``erased``: removed with their customer."""

    job_id: str
    total: int
    waiting: int
    answered: int
    failed: int
    cancelled: int
    expired: int

    @property
    def erased(self) -> int:
        """Items that are gone with their customer."""
        return self.total - self.waiting - self.answered - self.failed - self.cancelled - self.expired

    @property
    def is_over(self) -> bool:
        """Whether nothing of it will be answered any more."""
        return self.waiting == 0


class Jobs:
    """The jobs in the store; workers in any number of processes share it. ``owner`` is always a pseudonym.

    ``RecordsError`` from every method: see ``Records``.
    """

    def __init__(self, records: Records, limits: JobLimits | None = None) -> None:
        self._records, self._limits = records, limits or JobLimits()

    def submit(self, owner: str, asked: Sequence[Asked], now: datetime) -> str:
        """Keep a new job; its id, once it is on disk. ``JobError``: see ``JobLimits``."""
        self._check(asked)
        job_id, at = f"job-{secrets.token_urlsafe(16)}", now.timestamp()
        with self._records.writing() as store:
            _expire(store, now)
            still_open = select(func.count(JOBS.c.job_id)).where(JOBS.c.owner == owner, JOBS.c.job_id.in_(_WAITING))
            if (count := store.connection.execute(still_open).scalar_one()) >= self._limits.open_jobs:
                raise ManyJobsError(
                    f"Expected at most {self._limits.open_jobs} jobs at once, got {count} that are not over. Wait for "
                    "one, or cancel it."
                )
            expires = (now + self._limits.lifetime).timestamp()
            job = {"job_id": job_id, "owner": owner, "at": at, "expires": expires, "total": len(asked)}
            store.connection.execute(insert(JOBS).values(job | {"cancelled": False}))
            rows = [self._new_item(store, job_id, number, one, at) for number, one in enumerate(asked)]
            store.connection.execute(insert(JOB_ITEMS), rows)
        return job_id

    def claim(self, worker: str, now: datetime) -> Item | None:
        """The next item for ``worker`` (a name that is its own among all processes), if there is one."""
        with self._records.writing() as store:
            _expire(store, now)
            free = and_(JOB_ITEMS.c.state == "waiting", JOB_ITEMS.c.claimed_until <= now.timestamp())
            spent = JOB_ITEMS.c.attempts >= self._limits.max_attempts
            store.connection.execute(update(JOB_ITEMS).where(free, spent).values(state="failed", worker=None))
            order = (JOB_ITEMS.c.attempts, JOB_ITEMS.c.at, JOB_ITEMS.c.job_id, JOB_ITEMS.c.number)
            row = store.connection.execute(select(JOB_ITEMS).where(free).order_by(*order).limit(1)).one_or_none()
            if row is None:
                return None
            until = (now + self._limits.claim).timestamp()
            claimed = {"worker": worker, "claimed_until": until, "attempts": row.attempts + 1}
            store.connection.execute(update(JOB_ITEMS).where(_is(row.job_id, row.number)).values(claimed))
            owner = store.connection.execute(select(JOBS.c.owner).where(JOBS.c.job_id == row.job_id)).scalar_one()
            return _item(store, row, owner)

    def record(self, item: Item, answer: str, request_id: str, now: datetime) -> bool:
        """Keep the answer; ``False``, and nothing is kept, if the item has one, was cancelled, expired or erased."""
        with self._records.writing() as store:
            _expire(store, now)
            customer = self._records.customer(item.customer)
            waits = select(JOB_ITEMS.c.state).where(_is(item.job_id, item.number), JOB_ITEMS.c.state == "waiting")
            if store.connection.execute(waits).one_or_none() is None:
                return False
            sealed = _seal(store, customer, item.job_id, item.number, item, answer, request_id)
            values = {"state": "answered", "worker": None, "sealed": sealed}
            store.connection.execute(update(JOB_ITEMS).where(_is(item.job_id, item.number)).values(values))
            return True

    def fail(self, item: Item) -> None:
        """It cannot be answered as it is: no more claims. One that was answered, cancelled or erased stays so."""
        self._let_go(item, {"state": "failed"})

    def give_back(self, item: Item) -> None:
        """It could not be answered now, and that was not its fault: it waits again, and this claim does not count."""
        self._let_go(item, {"claimed_until": 0.0, "attempts": JOB_ITEMS.c.attempts - 1})

    def _let_go(self, item: Item, values: dict[str, Any]) -> None:
        waits = and_(_is(item.job_id, item.number), JOB_ITEMS.c.state == "waiting")
        with self._records.writing() as store:
            store.connection.execute(update(JOB_ITEMS).where(waits).values({"worker": None} | values))

    def resume(self, worker: str) -> int:
        """Give free what ``worker`` had claimed when it died: called once, when it starts; how many items."""
        mine = and_(JOB_ITEMS.c.state == "waiting", JOB_ITEMS.c.worker == worker)
        with self._records.writing() as store:
            return store.connection.execute(
                update(JOB_ITEMS).where(mine).values(worker=None, claimed_until=0.0)
            ).rowcount

    def cancel(self, job_id: str, owner: str) -> Progress:
        """Answer no more of it; what was answered stays. ``JobError``: ``owner`` has no such job."""
        with self._records.writing() as store:
            _owned(store, job_id, owner)
            store.connection.execute(update(JOBS).where(JOBS.c.job_id == job_id).values(cancelled=True))
            waits = and_(JOB_ITEMS.c.job_id == job_id, JOB_ITEMS.c.state == "waiting")
            store.connection.execute(update(JOB_ITEMS).where(waits).values(state="cancelled", worker=None))
            return _progress(store, job_id, owner)

    def progress(self, job_id: str, owner: str, now: datetime) -> Progress:
        """How far it is. ``JobError``: ``owner`` has no such job (or it was purged)."""
        with self._records.writing() as store:
            _expire(store, now)
            return _progress(store, job_id, owner)

    def items(self, job_id: str, owner: str) -> list[Item]:
        """All items that are left, by number. ``JobError``: ``owner`` has no such job."""
        with self._records.reading() as store:
            _owned(store, job_id, owner)
            chosen = select(JOB_ITEMS).where(JOB_ITEMS.c.job_id == job_id).order_by(JOB_ITEMS.c.number)
            return [_item(store, row, owner) for row in store.connection.execute(chosen).all()]

    def _check(self, asked: Sequence[Asked]) -> None:
        limits = self._limits
        if not 1 <= len(asked) <= limits.max_items:
            raise JobError(f"Expected 1 to {limits.max_items} questions in a batch, got {len(asked)}. Split it.")
        longest = max(len(one.question) for one in asked)
        if longest > limits.max_characters:
            raise JobError(
                f"Expected questions of at most {limits.max_characters} characters, got one of {longest}. Cut it."
            )

    def _new_item(self, store: Transaction, job_id: str, number: int, one: Asked, at: float) -> dict[str, Any]:
        customer = self._records.customer(one.customer)
        sealed = _seal(store, customer, job_id, number, one, "", "")
        row = {"job_id": job_id, "number": number, "customer": customer, "at": at, "sealed": sealed}
        return row | {"state": "waiting", "worker": None, "claimed_until": 0.0, "attempts": 0}


_WAITING = select(JOB_ITEMS.c.job_id).where(JOB_ITEMS.c.state == "waiting")


def _is(job_id: str, number: int) -> ColumnElement[bool]:
    return and_(JOB_ITEMS.c.job_id == job_id, JOB_ITEMS.c.number == number)


def _expire(store: Transaction, now: datetime) -> None:
    """Items of jobs whose time is over are not answered any more."""
    over = select(JOBS.c.job_id).where(JOBS.c.expires <= now.timestamp())
    late = and_(JOB_ITEMS.c.state == "waiting", JOB_ITEMS.c.job_id.in_(over))
    store.connection.execute(update(JOB_ITEMS).where(late).values(state="expired", worker=None))


def _owned(store: Transaction, job_id: str, owner: str) -> Any:
    row = store.connection.execute(select(JOBS).where(JOBS.c.job_id == job_id)).one_or_none()
    if row is None or row.owner != owner:
        raise UnknownJobError(
            f"Expected the id of a job of yours, got {job_id!r:.70}. Send the id that the batch was given."
        )
    return row


def _progress(store: Transaction, job_id: str, owner: str) -> Progress:
    total = _owned(store, job_id, owner).total
    counted = select(JOB_ITEMS.c.state, func.count()).where(JOB_ITEMS.c.job_id == job_id).group_by(JOB_ITEMS.c.state)
    counts = {str(row[0]): int(row[1]) for row in store.connection.execute(counted).all()}
    states = ("waiting", "answered", "failed", "cancelled", "expired")
    return Progress(job_id, total, *(counts.get(state, 0) for state in states))


def _seal(
    store: Transaction, customer: str, job_id: str, number: int, of: Asked | Item, answer: str, request_id: str
) -> bytes:
    text = {"customer": of.customer, "question": of.question, "answer": answer, "request_id": request_id}
    return store.seal(customer, ("job item", job_id, number), text)


def _item(store: Transaction, row: Any, owner: str) -> Item:
    text = store.open(row.customer, ("job item", row.job_id, row.number), row.sealed)
    return Item(row.job_id, row.number, row.state, **text, owner=owner)
