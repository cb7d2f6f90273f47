"""A bank's store of sealed records: every text under its customer's key, every customer's key under the bank's.

It knows who can be read and for how long; what the texts are, its users know (conversations, feedback, jobs).
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, bindparam, delete, insert, select

from fedbank.serving.store.database import Database, RecordsError
from fedbank.serving.store.tables import CUSTOMERS, METADATA, STORE
from fedbank.serving.store.vault import RecordsKey, VaultError, open_sealed, seal

Text = dict[str, str]
_HOLDS = [table for table in METADATA.sorted_tables if "customer" in table.c and table is not CUSTOMERS]
"""Where a customer has rows."""
_AGES = [table for table in METADATA.sorted_tables if "at" in table.c]
_KEY_OF = select(CUSTOMERS.c.wrapped_key).where(CUSTOMERS.c.customer == bindparam("customer"))
_MARK_OF = select(STORE.c.value).where(STORE.c.name == bindparam("mark"))
"""Made once: they are asked with every answer."""
_ERASED = "erased "
_ON_ITS_WAY = timedelta(seconds=2)
"""A worker that holds a customer's question asks it within this time."""


@dataclass(frozen=True, slots=True)
class Removed:
    """How many rows and customers' keys an erasure or a purge removed."""

    rows: int
    keys: int


class Transaction:
    """What a user of the store does within one transaction: rows by ``connection``, texts by ``seal`` and ``open``."""

    def __init__(self, connection: Connection, key: RecordsKey) -> None:
        self.connection = connection
        self._key = key
        self._keys: dict[str, bytes | None] = {}

    def seal(self, customer: str, place: tuple[object, ...], text: Text) -> bytes:
        """``text`` of ``customer`` (a pseudonym) for this place; makes the customer's key if there is none."""
        key = self._key_of(customer)
        if key is None:
            key, wrapped = self._key.new_customer_key(customer)
            self.connection.execute(insert(CUSTOMERS).values(customer=customer, wrapped_key=wrapped))
            self._keys[customer] = key
        return seal(key, _place(customer, place), json.dumps(text, ensure_ascii=False).encode("utf-8", "replace"))

    def open(self, customer: str, place: tuple[object, ...], sealed: bytes) -> Text:
        """What ``seal`` was given; ``RecordsError`` if the row was changed, moved, or is of another bank."""
        try:
            key = self._key_of(customer)
            if key is not None:
                text: Text = json.loads(open_sealed(key, _place(customer, place), sealed))
                return text
        except VaultError:
            pass
        raise RecordsError(
            f"Expected the row {' '.join(map(str, place))} as this bank sealed it, got one that was changed or is of "
            "another bank. It was not used; restore the store from a backup."
        )

    def is_erased(self, customer: str, at: datetime) -> bool:
        """Whether the customer was erased after ``at``, when an answer that is still on its way began."""
        mark = self.connection.execute(_MARK_OF, {"mark": _mark(self._key, customer)}).scalar_one_or_none()
        return mark is not None and at <= datetime.fromisoformat(mark) + _ON_ITS_WAY

    def _key_of(self, customer: str) -> bytes | None:
        if customer not in self._keys:
            wrapped = self.connection.execute(_KEY_OF, {"customer": customer}).scalar_one_or_none()
            self._keys[customer] = None if wrapped is None else self._key.unwrap(customer, wrapped)
        return self._keys[customer]


class Records:
    """The store, open. Threads and processes may share it.

    Raises (every method):
        RecordsError: see ``Database``; also a store that belongs to another records key.
    """

    def __init__(self, database: Database, key: RecordsKey) -> None:
        self._database, self._key = database, key
        mark = key.pseudonym("store")
        with database.writing() as connection:
            found = connection.execute(select(STORE.c.value).where(STORE.c.name == "key")).scalar_one_or_none()
            if found is None:
                connection.execute(insert(STORE).values(name="key", value=mark))
            elif found != mark:
                raise RecordsError(
                    "Expected the records key that this store was made with, got another. Give the right key file."
                )

    def customer(self, name: str) -> str:
        """The pseudonym that rows of the customer ``name`` carry."""
        return self._key.pseudonym("customer", name)

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        """One transaction: all of it is on disk when the block ends, or none of it is in the store."""
        with self._database.writing() as connection:
            yield Transaction(connection, self._key)

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """One moment of the store."""
        with self._database.reading() as connection:
            yield Transaction(connection, self._key)

    def erase(self, name: str, now: datetime | None = None) -> Removed:
        """Destroy the customer's key and every row, and overwrite them in the file; again if it was interrupted.

        What is left is a mark with the time (``now``; ``None``: this machine's), so that no process keeps an answer
        that it began before. It names nobody: it is another pseudonym than that of rows and evidence.
        """
        customer, rows = self.customer(name), 0
        mark, at = _mark(self._key, customer), _stamp(now or datetime.now(UTC))
        with self._database.writing() as connection:
            connection.execute(delete(STORE).where(STORE.c.name == mark))
            connection.execute(insert(STORE).values(name=mark, value=at))
            for table in _HOLDS:
                rows += connection.execute(delete(table).where(table.c.customer == customer)).rowcount
            keys = connection.execute(delete(CUSTOMERS).where(CUSTOMERS.c.customer == customer)).rowcount
        self._database.scrub()
        return Removed(rows, keys)

    def purge(self, now: datetime, retention: timedelta) -> Removed:
        """Remove what is older than ``retention``, and the keys of customers who have nothing left."""
        before, rows = (now - retention).timestamp(), 0
        with self._database.writing() as connection:
            for table in _AGES:
                rows += connection.execute(delete(table).where(table.c.at < before)).rowcount
            marks = (STORE.c.name.startswith(_ERASED), STORE.c.value < _stamp(now - retention))
            connection.execute(delete(STORE).where(*marks))
            idle = [CUSTOMERS.c.customer.not_in(select(table.c.customer)) for table in _HOLDS]
            keys = connection.execute(delete(CUSTOMERS).where(*idle)).rowcount
        self._database.scrub()
        return Removed(rows, keys)

    def close(self) -> None:
        """Close every connection."""
        self._database.close()


def _stamp(at: datetime) -> str:
    """Of equal length, so that earlier ones are less."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def _mark(key: RecordsKey, customer: str) -> str:
    return _ERASED + key.pseudonym("erased", customer)


def _place(customer: str, place: tuple[object, ...]) -> str:
    return json.dumps(["fedbank-record/1", customer, *place])
