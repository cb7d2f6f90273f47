"""Sessions and cached answers that several processes of a bank's service share in Redis.

Sessions need Redis: without it there is no context to answer in, and that is said. The cache does not: without Redis
every question is a new one.
"""

import logging
import secrets
from datetime import datetime, timedelta

from fedbank.serving.engines.interface import Turn
from fedbank.serving.sharing.cache import IN_FLIGHT, CachedAnswer, CacheLimits
from fedbank.serving.sharing.redis_link import RedisLink, SharedStoreError
from fedbank.serving.sharing.redis_shelf import Item, Shelf
from fedbank.serving.sharing.sessions import Said, SessionLimits, fitting, unknown_session
from fedbank.serving.store.vault import RecordsKey

_LOG = logging.getLogger("fedbank.serving")
_TRIES = 64
"""Each means that another process added to the same session meanwhile."""
_PAUSE = timedelta(seconds=5)
"""So long the cache does not ask a Redis that was away or slow."""


class RedisSessions:
    """``Sessions`` of every process with the same Redis and the same records key; limits must be the same too.

    Raises (every method):
        SharedStoreError: Redis is away, slow or full; nothing was kept or, if it was slow, perhaps.
    """

    def __init__(self, link: RedisLink, key: RecordsKey, limits: SessionLimits | None = None) -> None:
        self._limits = limits or SessionLimits()
        self._shelf = Shelf(link, key, "session", self._limits.max_sessions)

    async def start(self, owner: str, now: datetime) -> str:
        """See ``Sessions``."""
        session_id = secrets.token_urlsafe(24)
        await self._put(session_id, owner, now, (), now, None)
        return session_id

    async def context(self, session_id: str, owner: str, now: datetime) -> tuple[Turn, ...]:
        """See ``Sessions``."""
        item = await self._of(session_id, owner, now)
        return tuple(turn for one in _said(item) for turn in one.turns())

    async def add(self, session_id: str, owner: str, said: Said, now: datetime) -> None:
        """See ``Sessions``; of several processes that add at once, each one's is kept."""
        for _ in range(_TRIES):
            item = await self._of(session_id, owner, now)
            kept = fitting((*_said(item), said), self._limits)
            if await self._put(session_id, owner, datetime.fromisoformat(item.content["started"]), kept, now, item):
                return
        raise SharedStoreError("Expected one question at a time in a session, got many. Try again.", 1.0)

    async def forget(self, owner: str) -> int:
        """See ``Sessions``; an ``add`` that is under way finds its session gone."""
        return await self._shelf.forget(owner)

    async def _put(
        self, session_id: str, owner: str, started: datetime, said: tuple[Said, ...], now: datetime, before: Item | None
    ) -> bool:
        until = min(now + self._limits.idle, started + self._limits.lifetime)
        texts = [[one.question, one.answer, one.token_count] for one in said]
        content = {"started": started.isoformat(), "said": texts}
        return await self._shelf.put(session_id, owner, content, now, until, before)

    async def _of(self, session_id: str, owner: str, now: datetime) -> Item:
        item = await self._shelf.get(session_id, now, used=False)
        if item is None or item.owner != owner:
            raise unknown_session()
        return item


def _said(item: Item) -> tuple[Said, ...]:
    return tuple(Said(question, answer, tokens) for question, answer, tokens in item.content["said"])


class RedisCache:
    """``Cache`` of every process with the same Redis and the same records key."""

    def __init__(self, link: RedisLink, key: RecordsKey, limits: CacheLimits | None = None) -> None:
        self._limits = limits or CacheLimits()
        self._shelf = Shelf(link, key, "cached answer", self._limits.max_entries)
        self._away_until: datetime | None = None

    async def get(self, key: str, now: datetime) -> CachedAnswer | None:
        """See ``Cache``."""
        if self._is_away(now):
            return None
        try:
            item = await self._shelf.get(key, now, used=True)
        except SharedStoreError as error:
            self._gone(error, now)
            return None
        self._back()
        return None if item is None else CachedAnswer(**item.content)

    async def put(self, key: str, answer: CachedAnswer, customer: str, now: datetime) -> None:
        """See ``Cache``."""
        if self._is_away(now) or len(answer.text.encode("utf-8", "replace")) > self._limits.max_answer_bytes:
            return
        content = {name: getattr(answer, name) for name in CachedAnswer.__slots__}
        try:
            await self._shelf.put(key, customer, content, now, now + self._limits.keep)
        except SharedStoreError as error:
            self._gone(error, now)
        else:
            self._back()

    async def forget(self, customer: str, now: datetime) -> int:
        """See ``Cache``."""
        return await self._shelf.forget(customer, int(IN_FLIGHT / timedelta(milliseconds=1)))

    def _is_away(self, now: datetime) -> bool:
        return self._away_until is not None and now < self._away_until

    def _gone(self, error: SharedStoreError, now: datetime) -> None:
        if self._away_until is None:  # said once, not with every question
            _LOG.warning("Answers are not cached until it is mended. %s", error)
        self._away_until = now + _PAUSE

    def _back(self) -> None:
        if self._away_until is not None:
            _LOG.warning("Answers are cached again.")
            self._away_until = None
