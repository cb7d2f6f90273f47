"""What was asked and answered, in the bank's own store: a row for every answer, its texts under the customer's key."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from fedbank.errors import FedBankError
from fedbank.serving.store.database import RecordsError
from fedbank.serving.store.records import Records, Transaction
from fedbank.serving.store.tables import ANSWERS

_INSERT = insert(ANSWERS)


class UnknownRequestError(FedBankError):
    """No answer of that request id for that customer; the two cases are not told apart."""


class RowError(RecordsError):
    """This exchange cannot be kept, whatever else can."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question of one customer and its answer by ``release``; ``topic`` and ``language`` as in an ``Inquiry``."""

    request_id: str
    at: datetime
    session_id: str
    release: str
    customer: str = field(repr=False)
    question: str = field(repr=False)
    answer: str = field(repr=False)
    topic: str = ""
    language: str = ""


class Conversations:
    """The exchanges in the store. ``RecordsError`` from every method: see ``Records``."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def add(self, *exchanges: Exchange) -> None:
        """Keep all of ``exchanges`` or none; they are on disk when this returns. A request id is used once.

        But for those of customers who were erased since they asked: of these nothing is kept.

        Raises:
            RowError: one of them has a request id that was used.
        """
        if not exchanges:
            return
        with self._records.writing() as store:
            rows = [row for row in (self._row(store, exchange) for exchange in exchanges) if row is not None]
            try:
                if rows:
                    store.connection.execute(_INSERT, rows)
            except IntegrityError:
                names = ", ".join(exchange.request_id for exchange in exchanges)
                raise RowError(
                    f"Expected a new request id, got {names!r:.70}, which has an answer. Draw another."
                ) from None

    def _row(self, store: Transaction, exchange: Exchange) -> dict[str, object] | None:
        customer, at = self._records.customer(exchange.customer), exchange.at.timestamp()
        if store.is_erased(customer, exchange.at):
            return None
        text = {
            name: getattr(exchange, name)
            for name in ("session_id", "release", "customer", "question", "answer", "topic", "language")
        }
        sealed = store.seal(customer, ("answer", exchange.request_id, at), text)
        return {"request_id": exchange.request_id, "customer": customer, "at": at, "sealed": sealed}

    def find(self, request_id: str, customer: str) -> Exchange:
        """The exchange; ``UnknownRequestError`` if there is none, or it is another customer's."""
        with self._records.reading() as store:
            return find_exchange(store, request_id, self._records.customer(customer))

    def of_customer(self, customer: str) -> list[Exchange]:
        """Everything of one customer, oldest first: what they may ask to see (PIPL, article 45)."""
        mine = select(ANSWERS).where(ANSWERS.c.customer == self._records.customer(customer))
        with self._records.reading() as store:
            rows = store.connection.execute(mine.order_by(ANSWERS.c.at, ANSWERS.c.request_id)).all()
            return [_exchange(store, row) for row in rows]


def find_exchange(store: Transaction, request_id: str, customer: str | None) -> Exchange:
    """The exchange within a transaction; ``customer`` is a pseudonym, ``None`` for whoever it is of."""
    row = store.connection.execute(select(ANSWERS).where(ANSWERS.c.request_id == request_id)).one_or_none()
    if row is None or customer not in (None, row.customer):
        raise UnknownRequestError(
            f"Expected the id of an answer of this customer, got {request_id!r:.70}. Send the request_id of the answer."
        )
    return _exchange(store, row)


def _exchange(store: Transaction, row: Any) -> Exchange:
    text = store.open(row.customer, ("answer", row.request_id, row.at), row.sealed)
    return Exchange(request_id=row.request_id, at=datetime.fromtimestamp(row.at, UTC), **text)
