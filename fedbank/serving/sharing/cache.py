"""Answers that need no model: the very same question was asked of the very same release under the same rules.

Exact matches only: a question that merely resembles another may have the opposite answer (保本, 不保本). Off by
default, for whoever measures times can learn that a question was asked before. In memory; Redis offers the same.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from fedbank.serving.engines.interface import Finish
from fedbank.serving.store.vault import RecordsKey

IN_FLIGHT = timedelta(minutes=10)
"""So long after an erasure nothing of that customer is cached: what was being answered then is over by its end."""
_OVERHEAD = 400
"""Bytes that an entry takes beside its text (CPython, measured roughly): many short answers are bounded too."""


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """What the model said, before the stages on the way out: they work on it as they would on a new answer."""

    text: str = field(repr=False)
    prompt_tokens: int
    answer_tokens: int
    finish: Finish = "stop"


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """``max_bytes``: of one process's memory (of Redis: its ``maxmemory``). Longer answers are not cached."""

    max_entries: int = 10_000
    max_bytes: int = 64 * 2**20
    max_answer_bytes: int = 16 * 2**10
    keep: timedelta = timedelta(hours=1)


class Cache(Protocol):
    """``key``: see ``cache_key``. ``customer``: the pseudonym of who asked first, by which an erasure finds it."""

    async def get(self, key: str, now: datetime) -> CachedAnswer | None:
        """The answer, if there is one. Never an error."""
        ...

    async def put(self, key: str, answer: CachedAnswer, customer: str, now: datetime) -> None:
        """Keep ``answer`` for a while; the one that nobody asked for longest makes room. Never an error."""
        ...

    async def forget(self, customer: str, now: datetime) -> int:
        """Remove every answer that ``customer`` caused; how many there were.

        Raises:
            SharedStoreError: it cannot be said that they are gone (not in memory). Do it again.
        """
        ...


def cache_key(
    key: RecordsKey,
    *,
    question: str,
    release: str,
    knowledge: str,
    policies: Mapping[str, str],
    max_tokens: int,
    has_context: bool,
    is_masked: bool,
    temperature: float = 0.0,
) -> str | None:
    """The name under which an answer may be shared between customers; ``None``: it must not be.

    ``question``: as redacted, to the letter. ``release``: its manifest's SHA-256. ``knowledge``: the version of what is
    looked up. ``policies``: every stage and its version, those on the way out too: a new rule answers anew.

    Not shared: what was said in a context (``has_context``: a session, a history, anything looked up about the
    customer), for the answer is to that; what had personal data masked (``is_masked``), for its placeholders mean
    another number to every customer, and an answer to one would be filled with the data of the other; what is drawn at
    random. The name is a keyed pseudonym (HMAC): whoever sees it can neither read nor guess the question.
    """
    if has_context or is_masked or temperature > 0:
        return None
    versions = [part for name in sorted(policies) for part in (name, policies[name])]
    return key.pseudonym("cached answer", question, release, knowledge, str(max_tokens), *versions)


@dataclass(frozen=True, slots=True)
class _Entry:
    answer: CachedAnswer
    customer: str
    until: datetime
    size: int


class MemoryCache:
    """``Cache`` of one process."""

    def __init__(self, limits: CacheLimits | None = None) -> None:
        self._limits = limits or CacheLimits()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._erased: dict[str, datetime] = {}
        self._size = 0

    async def get(self, key: str, now: datetime) -> CachedAnswer | None:
        """See ``Cache``."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if now >= entry.until:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry.answer

    async def put(self, key: str, answer: CachedAnswer, customer: str, now: datetime) -> None:
        """See ``Cache``."""
        length = len(answer.text.encode("utf-8", "replace"))
        if length > self._limits.max_answer_bytes or now < self._erased.get(customer, now):
            return
        self._drop(key)
        entry = _Entry(answer, customer, now + self._limits.keep, length + _OVERHEAD)
        self._entries[key] = entry
        self._size += entry.size
        while self._size > self._limits.max_bytes or len(self._entries) > self._limits.max_entries:
            self._drop(next(iter(self._entries)))

    async def forget(self, customer: str, now: datetime) -> int:
        """See ``Cache``."""
        self._erased = {name: until for name, until in self._erased.items() if until > now}
        self._erased[customer] = now + IN_FLIGHT
        theirs = [key for key, entry in self._entries.items() if entry.customer == customer]
        for key in theirs:
            self._drop(key)
        return len(theirs)

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size -= entry.size
