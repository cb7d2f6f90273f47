"""Redis that dies, sleeps, forgets, or is in the hands of another; many that write at once: a real one each time."""

import asyncio
import hmac
import json
import logging
import secrets
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from bank_records import ANSWER, KEY, NOW, QUESTION, forked, status_of
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from redis_server import PASSWORD, RedisServer, redis_server, running, server, sessions_in, talk

from fedbank.serving.sharing.cache import CachedAnswer, CacheLimits
from fedbank.serving.sharing.redis_link import SharedStoreError
from fedbank.serving.sharing.redis_store import RedisCache, RedisSessions
from fedbank.serving.sharing.sessions import Said, SessionLimits, UnknownSessionError
from fedbank.serving.store.vault import RecordsKey

pytestmark = pytest.mark.slow
__all__ = ["redis_server", "server"]
ME, OTHER = "a" * 32, "b" * 32
CACHED = CachedAnswer(ANSWER, 31, 12)


def test_whoever_reads_redis_reads_nothing_and_everything_ends_by_itself(server: RedisServer) -> None:
    async def run() -> list[bytes]:
        async with sessions_in(server) as sessions, server.link() as link:
            cache = RedisCache(link, KEY)
            ids = [await talk(sessions), await talk(sessions, OTHER)]
            await cache.put("name-of-the-question", CACHED, ME, NOW)
            await cache.forget(OTHER, NOW)
        return [one.encode() for one in ids]

    ids = asyncio.run(run())
    there = repr(server.everything()).encode()
    for text in (QUESTION, ANSWER, "4417", "branch", "question", "said", "name-of-the-question"):
        assert repr(text.encode())[2:-1].encode() not in there
    assert all(one not in there for one in ids), "a session's id is half of what opens it"
    with server.client() as client:
        lasts = {key: client.pttl(key) for key in client.keys("*")}
    assert len(lasts) == 9 and all(0 < ms <= 30 * 60_000 or b"cached answer" in key for key, ms in lasts.items())
    assert all(0 < ms <= 60 * 60_000 for ms in lasts.values())


def test_a_session_can_be_opened_by_the_document_alone(server: RedisServer) -> None:
    def derived(purpose: str) -> bytes:
        return HKDF(SHA256(), 32, None, f"fedbank-records/1 {purpose}".encode()).derive(bytes(range(32)))

    def keyed(key: bytes, *parts: str) -> bytes:
        return hmac.digest(key, json.dumps(parts).encode(), "sha256")

    async def run() -> str:
        async with sessions_in(server) as sessions:
            return await talk(sessions)

    session_id = asyncio.run(run())
    bank = keyed(derived("names"), "redis")[:16].hex()
    name = keyed(derived("names"), "session in redis", session_id)[:16].hex()
    prefix = f"fedbank-redis/1:{{{bank} session}}:"
    there = server.everything()
    expires = int((NOW.timestamp() + 30 * 60) * 1000)
    item = there.pop(f"{prefix}item:{name}".encode())
    assert there == {
        f"{prefix}order".encode(): [(name.encode(), 2.0)],
        f"{prefix}owner:{ME}".encode(): [(name.encode(), expires)],
    }
    assert (item[b"owner"], item[b"expires"]) == (ME.encode(), str(expires).encode())
    place = json.dumps(["fedbank-redis/1", "session", name, ME, expires]).encode()
    key = keyed(derived("things"), "session", session_id)
    content = AESGCM(key).decrypt(item[b"sealed"][:12], item[b"sealed"][12:], place)
    assert json.loads(content) == {"started": NOW.isoformat(), "said": [[QUESTION, ANSWER, 40]]}


def test_an_erasure_leaves_nothing(server: RedisServer) -> None:
    async def run() -> None:
        async with sessions_in(server) as sessions, server.link() as link:
            cache = RedisCache(link, KEY)
            await talk(sessions), await talk(sessions)
            await cache.put("k", CACHED, ME, NOW)
            assert (await sessions.forget(ME), await cache.forget(ME, NOW)) == (2, 1)

    asyncio.run(run())
    left = server.everything()
    assert [key.partition(b"}:")[2] for key in left] == [f"barred:{ME}".encode()] and set(left.values()) == {b"1"}


def test_another_bank_or_key_finds_nothing_and_harms_nothing(server: RedisServer) -> None:
    async def run() -> None:
        other = RecordsKey.generate()
        async with sessions_in(server) as mine, sessions_in(server, other) as theirs, server.link() as link:
            session_id = await talk(mine)
            await RedisCache(link, KEY).put("k", CACHED, ME, NOW)
            with pytest.raises(UnknownSessionError):
                await theirs.context(session_id, ME, NOW)
            assert await RedisCache(link, other).get("k", NOW) is None
            assert await theirs.forget(ME) == 0
            assert len(await mine.context(session_id, ME, NOW)) == 2
            assert await RedisCache(link, KEY).get("k", NOW) == CACHED

    asyncio.run(run())


def _flipped(value: bytes, at: int) -> bytes:
    changed = bytearray(value)
    changed[at] ^= 1
    return bytes(changed)


@pytest.mark.parametrize(
    "changed",
    [
        *({"sealed": place} for place in (0, 11, 12, 40, -1)),
        {"sealed": None},
        {"sealed": b"short"},
        {"owner": OTHER},
        {"expires": str(int(NOW.timestamp() * 1000) + 10**9)},
        {"expires": "soon"},
        {"owner": b"\xff\xfe"},
    ],
    ids=str,
)
def test_what_was_changed_is_not_used_and_said(
    server: RedisServer, caplog: pytest.LogCaptureFixture, changed: dict[str, Any]
) -> None:
    async def run() -> None:
        async with sessions_in(server) as sessions, server.link() as link:
            cache = RedisCache(link, KEY)
            session_id, other = await talk(sessions), await talk(sessions)
            await cache.put("k", CACHED, ME, NOW)
            with server.client() as client:
                order = client.keys("*session}:order")[0]
                mine = order.replace(b"order", b"item:") + client.zrange(order, 0, 0)[0]
                for item in (mine, client.keys("*cached answer}:item:*")[0]):
                    for field, value in changed.items():
                        was = client.hget(item, field)
                        new = client.hget(mine, "sealed") + was if value is None else value
                        client.hset(item, field, _flipped(was, value) if isinstance(value, int) else new)
                        if field == "owner":  # whoever changes that can change the list of owners too
                            name, prefix = item.rpartition(b":")[2], item.rpartition(b"item:")[0]
                            owner = value if isinstance(value, bytes) else value.encode()
                            client.zadd(prefix + b"owner:" + owner, {name: 10**15})
            for owner in (ME, OTHER):
                with pytest.raises(UnknownSessionError):
                    await sessions.context(session_id, owner, NOW)
                with pytest.raises(UnknownSessionError):
                    await sessions.add(session_id, owner, Said("q", "a", 1), NOW)
            assert await cache.get("k", NOW) is None
            assert len(await sessions.context(other, ME, NOW)) == 2

    asyncio.run(run())
    assert "a session was not as this bank sealed it" in caplog.text
    assert "a cached answer was not as this bank sealed it" in caplog.text
    assert PASSWORD not in caplog.text and "branch" not in caplog.text


def test_one_sessions_words_are_never_anothers(server: RedisServer) -> None:
    async def run() -> None:
        async with sessions_in(server) as sessions:
            first, second = await talk(sessions), await talk(sessions)
            with server.client() as client:
                one, two = client.keys("*item:*")
                values = client.hgetall(one), client.hgetall(two)
                client.hset(one, mapping=values[1])
                client.hset(two, mapping=values[0])
            for session_id in (first, second):
                with pytest.raises(UnknownSessionError):
                    await sessions.context(session_id, ME, NOW)

    asyncio.run(run())


def test_what_an_erasure_would_not_find_is_gone(server: RedisServer) -> None:
    """Redis throws keys away by itself when it is told to (maxmemory-policy): even the list of owners."""

    async def run() -> None:
        async with sessions_in(server) as sessions:
            session_id = await talk(sessions)
            with server.client() as client:
                client.delete(*client.keys("*owner:*"))
            with pytest.raises(UnknownSessionError):
                await sessions.context(session_id, ME, NOW)

    asyncio.run(run())
    assert not [key for key in server.everything() if b"item:" in key]


def test_of_processes_that_add_to_one_session_each_ones_words_are_kept(server: RedisServer) -> None:
    limits = SessionLimits(max_turns=400, max_tokens=10_000)

    async def start() -> str:
        async with sessions_in(server) as sessions:
            return await sessions.start(ME, NOW)

    async def add(who: int, session_id: str) -> None:
        async with sessions_in(server, limits=limits) as sessions:
            for number in range(30):
                await sessions.add(session_id, ME, Said(f"{who}-{number}", "a", 1), NOW)

    async def all_of(session_id: str) -> list[str]:
        async with sessions_in(server, limits=limits) as sessions:
            return [turn.text for turn in await sessions.context(session_id, ME, NOW) if turn.role == "user"]

    session_id = asyncio.run(start())
    children = [forked(lambda who=who: asyncio.run(add(who, session_id))) for who in range(3)]
    assert [status_of(child) for child in children] == [0, 0, 0]
    kept = asyncio.run(all_of(session_id))
    assert sorted(kept) == sorted(f"{who}-{number}" for who in range(3) for number in range(30))
    for who in range(3):
        mine = [one for one in kept if one.startswith(f"{who}-")]
        assert mine == [f"{who}-{number}" for number in range(30)], "in the order in which they were said"


def test_an_erasure_gets_sessions_that_are_being_written(server: RedisServer) -> None:
    async def write(sessions: RedisSessions, session_id: str) -> int:
        for number in range(10_000):
            try:
                await sessions.add(session_id, ME, Said(f"q{number}", "a", 1), NOW)
            except UnknownSessionError:
                return number
        return 10_000

    async def run() -> None:
        async with sessions_in(server) as writer, sessions_in(server) as eraser:
            ids = [await writer.start(ME, NOW) for _ in range(5)]
            writing = [asyncio.create_task(write(writer, one)) for one in ids]
            while not all([await eraser.context(one, ME, NOW) for one in ids]):
                pass
            assert await eraser.forget(ME) == 5
            written = await asyncio.gather(*writing)
            assert all(0 < number < 10_000 for number in written)

    asyncio.run(run())
    assert server.everything() == {}


def test_a_question_that_is_broken_off_never_gives_its_answer_to_the_next(server: RedisServer) -> None:
    async def run() -> None:
        async with server.link() as link:
            cache = RedisCache(link, KEY)
            for number in range(20):
                await cache.put(f"k{number}", CachedAnswer(f"answer {number}", 1, 1), ME, NOW)

            async def ask(number: int, patience_s: float) -> CachedAnswer | None:
                async with asyncio.timeout(patience_s):
                    return await cache.get(f"k{number}", NOW)

            broken = 0
            for turn in range(30):
                hurry = turn * 0.0002
                asked = [ask(number, hurry if number % 2 else 10.0) for number in range(20)]
                found = await asyncio.gather(*asked, return_exceptions=True)
                broken += sum(isinstance(one, TimeoutError) for one in found)
                for number, one in enumerate(found):
                    assert isinstance(one, TimeoutError) or one == CachedAnswer(f"answer {number}", 1, 1)
            assert broken > 20

    asyncio.run(run())


def test_redis_that_dies_is_said_to_be_away_and_is_used_again_when_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run(server: RedisServer) -> None:
        async with sessions_in(server) as sessions, server.link() as link:
            cache = RedisCache(link, KEY)
            session_id = await talk(sessions)
            await cache.put("k", CACHED, ME, NOW)
            server.kill()
            for call in (sessions.context(session_id, ME, NOW), sessions.start(ME, NOW), sessions.forget(ME)):
                with pytest.raises(SharedStoreError, match="Expected an answer of Redis at redis://127") as away:
                    await call
                assert away.value.retry_after_s and PASSWORD not in str(away.value)
            for second in range(0, 60, 2):
                assert await cache.get("k", NOW + timedelta(seconds=second)) is None
                await cache.put("k", CACHED, ME, NOW + timedelta(seconds=second))
            assert caplog.text.count("Answers are not cached until it is mended.") == 1
            with pytest.raises(SharedStoreError):
                await cache.forget(ME, NOW)
            server.start()
            with pytest.raises(UnknownSessionError):
                await sessions.context(session_id, ME, NOW)
            assert await sessions.context(await talk(sessions), ME, NOW)
            later = NOW + timedelta(seconds=66)
            await cache.put("k", CACHED, ME, later)
            assert await cache.get("k", later) == CACHED
            assert caplog.text.count("Answers are cached again.") == 1

    with running(tmp_path) as server, caplog.at_level(logging.INFO):
        asyncio.run(run(server))


def test_redis_that_sleeps_is_not_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def took(call: Any) -> float:
        began = time.monotonic()
        with pytest.raises(SharedStoreError, match=r"none within 0\.5 s") as slow:
            await call
        assert slow.value.retry_after_s
        return time.monotonic() - began

    async def run(server: RedisServer) -> None:
        async with sessions_in(server, patience_s=0.5) as sessions, server.link(patience_s=0.5) as link:
            cache = RedisCache(link, KEY)
            session_id = await talk(sessions)
            await cache.put("k", CACHED, ME, NOW)
            with server.asleep():
                calls = [sessions.context(session_id, ME, NOW) for _ in range(100)]  # more than there are connections
                assert max(await asyncio.gather(*(took(call) for call in calls))) < 5
                began = time.monotonic()
                for _ in range(1000):
                    assert await cache.get("k", NOW) is None
                assert time.monotonic() - began < 5, "it is not asked for every question"
            assert len(await sessions.context(session_id, ME, NOW)) == 2
            assert await cache.get("k", NOW + timedelta(seconds=6)) == CACHED

    with running(tmp_path) as server:
        asyncio.run(run(server))
    assert caplog.text.count("Answers are not cached until it is mended.") == 1


def test_what_lies_there_is_bounded_and_what_is_over_makes_room_at_once(server: RedisServer) -> None:
    async def run() -> None:
        async with sessions_in(server, limits=SessionLimits(max_sessions=50)) as sessions, server.link() as link:
            cache = RedisCache(link, KEY, CacheLimits(max_entries=50))
            for number in range(120):
                await sessions.start(secrets.token_hex(16), NOW)
                await cache.put(f"k{number}", CACHED, ME, NOW)
            for kind in ("session", "cached answer"):
                there = [key for key in server.everything() if f"{kind}}}:item:".encode() in key]
                assert len(there) == 50
            await sessions.start(ME, NOW + timedelta(hours=1))
            await cache.put("k", CACHED, ME, NOW + timedelta(hours=2))

    asyncio.run(run())
    left = server.everything()
    assert len(left) == 6, "one thing of each kind, its owner, the order"
    assert all(len(value) == 1 for key, value in left.items() if b"item:" not in key)
