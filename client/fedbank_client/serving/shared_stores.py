"""Where sessions and answers that are told again are kept: in this process, or in the bank's Redis."""

from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

from fedbank.config import ServeConfig
from fedbank.serving.sharing.cache import Cache, CacheLimits, MemoryCache
from fedbank.serving.sharing.sessions import MemorySessions, SessionLimits, Sessions
from fedbank.serving.store.vault import RecordsKey
from fedbank_client.serving.secret_files import REDIS_VARIABLE, read_secret


async def shared_stores(config: ServeConfig, key: RecordsKey, stack: AsyncExitStack) -> tuple[Sessions, Cache | None]:
    """Both, closed with ``stack``; no cache unless the settings want one.

    Raises:
        SharedStoreError: Redis is named, and is not there.
        CertificateError: the file that names it cannot be used.
    """
    about, caching = config.sessions, config.cache
    limits = SessionLimits(
        about.max_turns,
        about.max_tokens,
        timedelta(minutes=about.idle_minutes),
        timedelta(hours=about.lifetime_hours),
        about.max_sessions,
    )
    keeps = CacheLimits(caching.entries, keep=timedelta(minutes=caching.minutes))
    named = config.redis
    url = read_secret(named.url, REDIS_VARIABLE)
    if url is None:
        return MemorySessions(limits), MemoryCache(keeps) if caching.enabled else None
    from fedbank.serving.sharing.redis_link import RedisAccess, RedisLink
    from fedbank.serving.sharing.redis_store import RedisCache, RedisSessions

    link = RedisLink(
        RedisAccess(url, authority=_path(named.authority), certificate=_path(named.certificate), key=_path(named.key))
    )
    stack.push_async_callback(link.close)
    await link.check()
    return RedisSessions(link, key, limits), RedisCache(link, key, keeps) if caching.enabled else None


def _path(name: str | None) -> Path | None:
    return Path(name) if name else None
