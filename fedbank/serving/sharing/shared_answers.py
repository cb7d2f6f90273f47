"""Which answers one customer's question may give to another's, and where they are kept (``cache``)."""

from collections.abc import Mapping
from datetime import datetime

from fedbank.serving.engines.interface import Generation
from fedbank.serving.pipeline import Passage
from fedbank.serving.sharing.cache import Cache, CachedAnswer, cache_key
from fedbank.serving.store.vault import RecordsKey


class SharedAnswers:
    """The cache under one bank's key and policies. ``knowledge``: the version of what stages look up."""

    def __init__(self, cache: Cache, key: RecordsKey, policies: Mapping[str, str], knowledge: str = "none") -> None:
        self._cache, self._key, self._policies, self._knowledge = cache, key, dict(policies), knowledge

    async def get(self, passage: Passage, asked: Generation, digest: str, now: datetime) -> CachedAnswer | None:
        """What the release of that ``digest`` said to the same question, if it may be told again."""
        name = self._name(passage, asked, digest)
        return await self._cache.get(name, now) if name is not None else None

    async def put(
        self, passage: Passage, asked: Generation, digest: str, answer: CachedAnswer, customer: str, now: datetime
    ) -> None:
        """Keep ``answer``, which ``customer`` (a pseudonym) caused, if others may be told it."""
        if (name := self._name(passage, asked, digest)) is not None:
            await self._cache.put(name, answer, customer, now)

    async def forget(self, customer: str, now: datetime) -> int:
        """See ``Cache``."""
        return await self._cache.forget(customer, now)

    def _name(self, passage: Passage, asked: Generation, digest: str) -> str | None:
        said = [turn for turn in asked.turns if turn.role != "system"]
        return cache_key(
            self._key,
            question="\n".join(f"{turn.role} {turn.text}" for turn in asked.turns),
            release=digest,
            knowledge=self._knowledge,
            policies=self._policies,
            max_tokens=asked.max_new_tokens,
            has_context=len(said) > 1,
            is_masked=passage.personal,
            temperature=asked.temperature,
        )
