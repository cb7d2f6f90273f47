"""What was said before in a conversation, for as long as it goes on: bounded in turns, tokens, time and number.

In memory by default; another store (Redis) offers the same interface. A session is its owner's: to anybody else, and
once it has expired, it is not there.
"""

import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from fedbank.errors import FedBankError
from fedbank.serving.engines.interface import Turn


class UnknownSessionError(FedBankError):
    """No such session of this owner: it never was, it expired, or it is another's."""


def unknown_session() -> UnknownSessionError:
    """In the same words every time: nobody hears from them whether a session exists."""
    return UnknownSessionError(
        "Expected the id of a session of yours that goes on, got another. Leave session_id out to start a new one."
    )


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """``max_turns``: questions and answers counted singly. ``idle``: since the last turn. ``lifetime``: in all."""

    max_turns: int = 20
    max_tokens: int = 2048
    idle: timedelta = timedelta(minutes=30)
    lifetime: timedelta = timedelta(hours=8)
    max_sessions: int = 10_000


@dataclass(frozen=True, slots=True)
class Said:
    """One question with its answer, and the tokens of both."""

    question: str = field(repr=False)
    answer: str = field(repr=False)
    token_count: int

    def turns(self) -> tuple[Turn, Turn]:
        """As an engine reads them."""
        return Turn("user", self.question), Turn("assistant", self.answer)


class Sessions(Protocol):
    """``owner`` is the pseudonym of the customer whose conversation it is: an erasure ends it by that name.

    Those that are shared between processes raise ``SharedStoreError`` (redis_link) when their store cannot be reached.
    """

    async def start(self, owner: str, now: datetime) -> str:
        """A new session's id, which nobody can guess."""
        ...

    async def context(self, session_id: str, owner: str, now: datetime) -> tuple[Turn, ...]:
        """What was said, oldest first, within the limits; ``UnknownSessionError`` if there is no such session."""
        ...

    async def add(self, session_id: str, owner: str, said: Said, now: datetime) -> None:
        """Keep ``said``, and forget the oldest beyond the limits; ``UnknownSessionError`` as above."""
        ...

    async def forget(self, owner: str) -> int:
        """End every session of ``owner``; how many there were."""
        ...


def fitting(said: Sequence[Said], limits: SessionLimits) -> tuple[Said, ...]:
    """The newest of ``said`` that fit the limits together; whole exchanges, none left out in between."""
    tokens, kept = 0, 0
    for one in reversed(said):
        tokens += one.token_count
        if tokens > limits.max_tokens or 2 * (kept + 1) > limits.max_turns:
            break
        kept += 1
    return tuple(said[len(said) - kept :])


@dataclass(slots=True)
class _Session:
    owner: str
    started: datetime
    last: datetime
    said: tuple[Said, ...] = field(default=(), repr=False)


class MemorySessions:
    """``Sessions`` of one process; the one idle longest makes room when there are too many."""

    def __init__(self, limits: SessionLimits | None = None) -> None:
        self._limits = limits or SessionLimits()
        self._sessions: OrderedDict[str, _Session] = OrderedDict()

    async def start(self, owner: str, now: datetime) -> str:
        """See ``Sessions``."""
        while self._sessions and (len(self._sessions) >= self._limits.max_sessions or self._is_over(self._oldest, now)):
            self._sessions.popitem(last=False)
        session_id = secrets.token_urlsafe(24)
        self._sessions[session_id] = _Session(owner, now, now)
        return session_id

    async def context(self, session_id: str, owner: str, now: datetime) -> tuple[Turn, ...]:
        """See ``Sessions``."""
        said = self._of(session_id, owner, now).said
        return tuple(turn for one in said for turn in one.turns())

    async def add(self, session_id: str, owner: str, said: Said, now: datetime) -> None:
        """See ``Sessions``."""
        session = self._of(session_id, owner, now)
        session.said = fitting((*session.said, said), self._limits)
        session.last = now
        self._sessions.move_to_end(session_id)

    async def forget(self, owner: str) -> int:
        """See ``Sessions``."""
        mine = [session_id for session_id, session in self._sessions.items() if session.owner == owner]
        for session_id in mine:
            del self._sessions[session_id]
        return len(mine)

    @property
    def _oldest(self) -> _Session:
        return next(iter(self._sessions.values()))

    def _is_over(self, session: _Session, now: datetime) -> bool:
        return now - session.last >= self._limits.idle or now - session.started >= self._limits.lifetime

    def _of(self, session_id: str, owner: str, now: datetime) -> _Session:
        session = self._sessions.get(session_id)
        if session is not None and self._is_over(session, now):
            del self._sessions[session_id]
            session = None
        if session is None or session.owner != owner:
            raise unknown_session()
        return session
