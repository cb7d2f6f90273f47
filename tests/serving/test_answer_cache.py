"""Which answers may be shared between customers, and what a cache of them keeps: in memory and in Redis alike."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any

import pytest
from bank_records import KEY, NOW
from redis_server import MEMORY_AND_REDIS, opened_in, redis_server

from fedbank.serving.sharing.cache import Cache, CachedAnswer, CacheLimits, MemoryCache, cache_key
from fedbank.serving.sharing.redis_store import RedisCache
from fedbank.serving.store.vault import RecordsKey

__all__ = ["redis_server"]
ME, OTHER = "a" * 32, "b" * 32
ANSWER = CachedAnswer("一年期定期存款的利率是 1.10%。", 31, 12, "length")
ASKED: dict[str, Any] = {
    "question": "一年期存款利率是多少?",
    "release": "0" * 64,
    "knowledge": "2026-03-01",
    "policies": {"redact": "2", "notice": "1"},
    "max_tokens": 256,
    "has_context": False,
    "is_masked": False,
}
Opened = Callable[..., AbstractAsyncContextManager[Cache]]


@pytest.fixture(params=MEMORY_AND_REDIS)
def opened(request: pytest.FixtureRequest) -> Opened:
    """A cache with these limits, empty."""
    return opened_in(request, MemoryCache, RedisCache)


@pytest.mark.parametrize(
    "changed",
    [
        {"question": "一年期存款利率是多少？"},
        {"question": "一年期存款利率是多少? "},
        {"release": "1" * 64},
        {"knowledge": "2026-03-02"},
        {"policies": {"redact": "3", "notice": "1"}},
        {"policies": {"redact": "2"}},
        {"policies": {"redact": "2", "notice": "1", "retrieve": "1"}},
        {"policies": {"redact": "1", "notice": "2"}},
        {"policies": {}},
        {"max_tokens": 255},
    ],
)
def test_whatever_may_change_an_answer_is_in_its_name(changed: dict[str, Any]) -> None:
    name = cache_key(KEY, **ASKED)
    assert name is not None and cache_key(KEY, **ASKED | changed) not in (None, name)


def test_the_order_in_which_rules_are_told_does_not_matter() -> None:
    other = {"notice": "1", "redact": "2"}
    assert cache_key(KEY, **ASKED | {"policies": other}) == cache_key(KEY, **ASKED)


@pytest.mark.parametrize("personal", [{"has_context": True}, {"is_masked": True}, {"temperature": 0.7}])
def test_what_is_for_one_customer_alone_has_no_name(personal: dict[str, Any]) -> None:
    assert cache_key(KEY, **ASKED | personal) is None


def test_only_the_bank_can_make_the_name_of_a_question() -> None:
    name = cache_key(KEY, **ASKED)
    assert name is not None and len(name) == 32
    assert cache_key(RecordsKey.generate(), **ASKED) != name


def test_an_answer_is_there_until_its_time_is_over(opened: Opened) -> None:
    async def run() -> None:
        async with opened(CacheLimits(keep=timedelta(minutes=10))) as cache:
            assert await cache.get("k", NOW) is None
            await cache.put("k", ANSWER, ME, NOW)
            assert await cache.get("k", NOW + timedelta(minutes=9, seconds=59)) == ANSWER
            assert await cache.get("other", NOW) is None
            assert await cache.get("k", NOW + timedelta(minutes=10)) is None
            await cache.put("k", CachedAnswer("new", 1, 1), OTHER, NOW + timedelta(minutes=10))
            assert await cache.get("k", NOW + timedelta(minutes=19)) == CachedAnswer("new", 1, 1, "stop")

    asyncio.run(run())


def test_the_one_that_nobody_asked_for_longest_makes_room(opened: Opened) -> None:
    async def run() -> None:
        async with opened(CacheLimits(max_entries=3)) as cache:
            for name in ("a", "b", "c"):
                await cache.put(name, ANSWER, ME, NOW)
            assert await cache.get("a", NOW) == ANSWER
            await cache.put("d", ANSWER, ME, NOW)
            await cache.put("d", ANSWER, ME, NOW)
            found = [name for name in ("a", "b", "c", "d") if await cache.get(name, NOW)]
            assert found == ["a", "c", "d"]

    asyncio.run(run())


def test_an_answer_that_is_too_long_is_not_kept(opened: Opened) -> None:
    async def run() -> None:
        async with opened(CacheLimits(max_answer_bytes=30)) as cache:
            await cache.put("fits", CachedAnswer("额" * 10, 1, 1), ME, NOW)
            await cache.put("too long", CachedAnswer("额" * 10 + "!", 1, 1), ME, NOW)
            assert await cache.get("fits", NOW) and await cache.get("too long", NOW) is None

    asyncio.run(run())


def test_an_erased_customer_has_no_answer_left_and_none_comes_after(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as cache:
            for number, customer in enumerate((ME, OTHER, ME)):
                await cache.put(f"k{number}", ANSWER, customer, NOW)
            assert await cache.forget(ME, NOW) == 2
            assert [await cache.get(f"k{number}", NOW) for number in range(3)] == [None, ANSWER, None]
            await cache.put("was being answered", ANSWER, ME, NOW)
            assert await cache.get("was being answered", NOW) is None
            assert await cache.forget(ME, NOW) == 0
            await cache.put("k0", ANSWER, OTHER, NOW)
            assert await cache.get("k0", NOW) == ANSWER

    asyncio.run(run())


def test_an_erasure_bars_a_customer_for_minutes_only() -> None:
    async def run() -> None:
        cache = MemoryCache()
        await cache.forget(ME, NOW)
        later = NOW + timedelta(minutes=10)
        await cache.put("k", ANSWER, ME, later)
        assert await cache.get("k", later) == ANSWER
        await cache.forget(OTHER, later)
        assert list(cache._erased) == [OTHER], "who was erased is not remembered for ever"

    asyncio.run(run())


def test_memory_is_bounded_in_bytes() -> None:
    async def run() -> None:
        cache = MemoryCache(CacheLimits(max_bytes=100_000))
        for number in range(1000):
            await cache.put(f"k{number % 300}", CachedAnswer("x" * 1000, 1, 1), ME, NOW)
            assert cache._size == sum(entry.size for entry in cache._entries.values()) <= 100_000
        assert 50 < len(cache._entries) < 100
        await cache.get("k99", NOW + timedelta(days=1))
        await cache.forget(ME, NOW)
        assert cache._size == 0

    asyncio.run(run())


def test_an_answer_is_not_shown_where_the_cache_is() -> None:
    assert "利率" not in repr(ANSWER)
