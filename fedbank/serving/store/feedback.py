"""What customers say of answers: a candidate until somebody at the bank approves or rejects it, then training data.

An approved one is an ``Inquiry`` like those of the bank's logs, under the same customer id: under another, one customer
would be two units of privacy. That id leaves the bank's store for the bank's own training data only.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import delete, func, insert, select, update

from fedbank.data.inquiry import Inquiry
from fedbank.data.redact import Vault, redact_or_mask
from fedbank.errors import FedBankError
from fedbank.serving.store.conversations import Exchange, UnknownRequestError, find_exchange
from fedbank.serving.store.records import Records, Transaction
from fedbank.serving.store.tables import FEEDBACK

State = Literal["candidate", "approved", "rejected"]
MAX_COMMENT = 2000
"""Characters."""


class FeedbackError(FedBankError):
    """A comment that is too long, or a review that is not allowed."""


class DecidedError(FeedbackError):
    """It was reviewed before, and a decision stands."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """What was said of one exchange, and what a reviewer made of it; ``reviewer`` is a pseudonym.

    ``corrected``: the answer that training shall see instead of the one that was given; empty: the given one.
    """

    exchange: Exchange
    helpful: bool
    state: State
    comment: str = field(default="", repr=False)
    corrected: str = field(default="", repr=False)
    reviewer: str | None = None


class FeedbackDesk:
    """Feedback in the store. ``RecordsError`` from every method: see ``Records``."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def give(self, request_id: str, customer: str, *, helpful: bool, comment: str = "") -> None:
        """Keep the customer's word on their own answer; a second one replaces it until it is reviewed.

        Raises:
            UnknownRequestError: no such answer of this customer.
            FeedbackError: the comment is too long, or the feedback was reviewed.
        """
        if len(comment) > MAX_COMMENT:
            raise FeedbackError(f"Expected a comment of at most {MAX_COMMENT} characters, got {len(comment)}. Cut it.")
        name = self._records.customer(customer)
        with self._records.writing() as store:
            exchange = find_exchange(store, request_id, name)
            row = _row(store, request_id)
            if row is not None and row.state != "candidate":
                raise DecidedError("Expected feedback that nobody reviewed yet, got one that is decided. Leave it.")
            store.connection.execute(delete(FEEDBACK).where(FEEDBACK.c.request_id == request_id))
            text = {"comment": comment, "corrected": ""}
            values = {
                "request_id": request_id,
                "customer": name,
                "at": exchange.at.timestamp(),  # the retention period is that of the answer
                "helpful": helpful,
                "state": "candidate",
                "sealed": store.seal(name, _place(request_id, helpful, "candidate", None), text),
            }
            store.connection.execute(insert(FEEDBACK).values(values))

    def review(
        self,
        request_id: str,
        reviewer: str,
        now: datetime,
        *,
        approve: bool,
        corrected: str = "",
        note: Callable[[], None] = lambda: None,
    ) -> Feedback:
        """Decide a candidate, once. ``reviewer`` is the pseudonym of a principal; what was decided is given back.

        ``note`` writes the evidence before the decision stands: if it raises, nothing is decided.

        Raises:
            UnknownRequestError: there is no feedback on that request.
            FeedbackError: it is decided, or an answer that did not help is approved without a ``corrected`` one.
        """
        with self._records.writing() as store:
            row = _row(store, request_id)
            if row is None:
                raise UnknownRequestError("Expected a request that has feedback, got another. Look at the candidates.")
            if row.state != "candidate":
                raise DecidedError("Expected a candidate, got feedback that is decided. A decision stands.")
            if approve and not row.helpful and not corrected.strip():
                raise FeedbackError(
                    "Expected the right answer beside the approval of an answer that did not help, got none. Training "
                    "would repeat the wrong one: give the corrected answer, or reject the feedback."
                )
            said = _feedback(store, row)
            text = {"comment": said.comment, "corrected": corrected}
            state = "approved" if approve else "rejected"
            place = _place(request_id, row.helpful, state, reviewer)
            sealed = store.seal(row.customer, place, text)
            decided = {"state": state, "reviewer": reviewer, "reviewed_at": now.timestamp(), "sealed": sealed}
            store.connection.execute(update(FEEDBACK).where(FEEDBACK.c.request_id == request_id).values(decided))
            note()
            return _feedback(store, _row(store, request_id))

    def listed(self, state: State, limit: int = 100) -> list[Feedback]:
        """At most ``limit`` in this state, oldest first."""
        with self._records.reading() as store:
            return list(_all(store, state, limit))

    def counts(self) -> dict[str, int]:
        """How much was said in all, by what was said and by state; never what."""
        counted = select(FEEDBACK.c.helpful, FEEDBACK.c.state, func.count()).group_by("helpful", "state")
        with self._records.reading() as store:
            rows = [(bool(row[0]), str(row[1]), int(row[2])) for row in store.connection.execute(counted).all()]
        named = {"candidates": "candidate", "approved": "approved", "rejected": "rejected"}
        return {
            "helpful": sum(count for helpful, _, count in rows if helpful),
            "not_helpful": sum(count for helpful, _, count in rows if not helpful),
            **{name: sum(count for _, found, count in rows if found == state) for name, state in named.items()},
        }

    def approved_inquiries(self) -> list[Inquiry]:
        """What was approved and not erased or purged since, oldest first: rows for the bank's next training.

        Without personal data but the customer's name, by which a unit of privacy is told from another.
        """
        with self._records.reading() as store:
            return [_inquiry(feedback) for feedback in _all(store, "approved", None)]


def _all(store: Transaction, state: State, limit: int | None) -> Iterator[Feedback]:
    chosen = select(FEEDBACK).where(FEEDBACK.c.state == state).order_by(FEEDBACK.c.at, FEEDBACK.c.request_id)
    for row in store.connection.execute(chosen.limit(limit)).all():
        yield _feedback(store, row)


def _row(store: Transaction, request_id: str) -> Any:
    return store.connection.execute(select(FEEDBACK).where(FEEDBACK.c.request_id == request_id)).one_or_none()


def _feedback(store: Transaction, row: Any) -> Feedback:
    place = _place(row.request_id, row.helpful, row.state, row.reviewer)
    text = store.open(row.customer, place, row.sealed)
    exchange = find_exchange(store, row.request_id, row.customer)
    return Feedback(exchange, row.helpful, row.state, text["comment"], text["corrected"], row.reviewer)


def _place(request_id: str, helpful: bool, state: str, reviewer: str | None) -> tuple[object, ...]:
    """A decision is sealed too: nobody approves a candidate by changing a column."""
    return ("feedback", request_id, bool(helpful), state, reviewer)


def _inquiry(feedback: Feedback) -> Inquiry:
    """As the model is asked: personal data are tokens, the same ones in question and answer."""
    exchange, vault = feedback.exchange, Vault()
    question = redact_or_mask(exchange.question, vault)
    answer = redact_or_mask(feedback.corrected or exchange.answer, vault)
    return Inquiry(question, answer, exchange.customer, exchange.topic, exchange.language)
