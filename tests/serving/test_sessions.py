"""What a conversation remembers, and for how long; whose it is: in memory and in a real Redis alike."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta

import pytest
from bank_records import NOW
from redis_server import MEMORY_AND_REDIS, opened_in, redis_server

from fedbank.serving.sharing.redis_store import RedisSessions
from fedbank.serving.sharing.sessions import MemorySessions, Said, SessionLimits, Sessions, UnknownSessionError, fitting

__all__ = ["redis_server"]
ME, OTHER = "a" * 32, "b" * 32
Opened = Callable[..., AbstractAsyncContextManager[Sessions]]


@pytest.fixture(params=MEMORY_AND_REDIS)
def opened(request: pytest.FixtureRequest) -> Opened:
    """Sessions with these limits, empty."""
    return opened_in(request, MemorySessions, RedisSessions)


def _said(number: int, tokens: int = 10) -> Said:
    return Said(f"q{number}", f"a{number}", tokens)


async def _talk(sessions: Sessions, count: int, tokens: int = 10) -> str:
    session_id = await sessions.start(ME, NOW)
    for number in range(count):
        await sessions.add(session_id, ME, _said(number, tokens), NOW)
    return session_id


@pytest.mark.parametrize(
    ("name", "tokens", "max_turns", "max_tokens", "kept"),
    [
        ("nothing said", [], 10, 100, []),
        ("all fits", [10, 10], 10, 100, [0, 1]),
        ("just at the limit of turns", [10, 10], 4, 100, [0, 1]),
        ("one turn too many", [10, 10, 10], 5, 100, [1, 2]),
        ("just at the limit of tokens", [50, 50], 10, 100, [0, 1]),
        ("one token too many", [51, 50], 10, 100, [1]),
        ("a long one in between is not left out alone", [1, 200, 1], 10, 100, [2]),
        ("the newest is too long by itself", [1, 101], 10, 100, []),
        ("no turns wanted", [1], 0, 100, []),
        ("one turn is half an exchange", [1], 1, 100, []),
    ],
)
def test_what_is_kept(name: str, tokens: list[int], max_turns: int, max_tokens: int, kept: list[int]) -> None:
    said = [_said(number, count) for number, count in enumerate(tokens)]
    limits = SessionLimits(max_turns=max_turns, max_tokens=max_tokens)
    assert fitting(said, limits) == tuple(said[number] for number in kept)


def test_the_turns_come_back_in_order_and_bounded(opened: Opened) -> None:
    async def run() -> None:
        async with opened(SessionLimits(max_turns=4)) as sessions:
            session_id = await _talk(sessions, 3)
            turns = await sessions.context(session_id, ME, NOW)
        assert [(turn.role, turn.text) for turn in turns] == [
            ("user", "q1"),
            ("assistant", "a1"),
            ("user", "q2"),
            ("assistant", "a2"),
        ]

    asyncio.run(run())


def test_of_what_is_said_at_once_nothing_is_lost(opened: Opened) -> None:
    async def run() -> None:
        async with opened(SessionLimits(max_turns=100)) as sessions:
            session_id = await sessions.start(ME, NOW)
            await asyncio.gather(*(sessions.add(session_id, ME, _said(number), NOW) for number in range(20)))
            turns = await sessions.context(session_id, ME, NOW)
            assert sorted(turn.text for turn in turns[::2]) == sorted(f"q{number}" for number in range(20))

    asyncio.run(run())


def test_what_does_not_fit_is_forgotten_for_good(opened: Opened) -> None:
    async def run() -> None:
        async with opened(SessionLimits(max_tokens=100)) as sessions:
            session_id = await _talk(sessions, 2, tokens=40)
            await sessions.add(session_id, ME, _said(2, 200), NOW)
            assert await sessions.context(session_id, ME, NOW) == ()
            await sessions.add(session_id, ME, _said(3, 1), NOW)
            assert [turn.text for turn in await sessions.context(session_id, ME, NOW)] == ["q3", "a3"]

    asyncio.run(run())


def test_a_session_is_its_owners_alone(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as sessions:
            session_id = await _talk(sessions, 1)
            said = set()
            for wrong, owner in ((session_id, OTHER), ("invented", ME), ("", ME), (session_id[:-1], ME)):
                with pytest.raises(UnknownSessionError) as refused:
                    await sessions.context(wrong, owner, NOW)
                said.add(str(refused.value))
                with pytest.raises(UnknownSessionError):
                    await sessions.add(wrong, owner, _said(9), NOW)
            assert len(said) == 1, "one cannot hear from the words whether it exists"
            assert len(await sessions.context(session_id, ME, NOW)) == 2

    asyncio.run(run())


@pytest.mark.parametrize(
    ("at", "there"),
    [
        ([29], True),
        ([30], False),
        ([29, 58], True),
        ([29, 59], False),
        ([25, 50, 75, 100, 119], True),
        ([25, 50, 75, 100, 120], False),
    ],
)
def test_a_session_ends_when_nobody_speaks_and_at_the_latest_after_its_lifetime(
    opened: Opened, at: list[int], there: bool
) -> None:
    async def run() -> bool:
        async with opened(SessionLimits(lifetime=timedelta(hours=2))) as sessions:
            session_id = await sessions.start(ME, NOW)
            try:
                for minutes in at:
                    await sessions.add(session_id, ME, _said(minutes), NOW + timedelta(minutes=minutes))
            except UnknownSessionError:
                return False
            return True

    assert asyncio.run(run()) is there


def test_looking_at_a_session_does_not_keep_it(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as sessions:
            session_id = await sessions.start(ME, NOW)
            assert await sessions.context(session_id, ME, NOW + timedelta(minutes=29)) == ()
            with pytest.raises(UnknownSessionError):
                await sessions.context(session_id, ME, NOW + timedelta(minutes=31))

    asyncio.run(run())


async def _goes_on(sessions: Sessions, session_id: str, owner: str) -> bool:
    try:
        await sessions.context(session_id, owner, NOW)
    except UnknownSessionError:
        return False
    return True


def test_memory_is_bounded_and_who_spoke_last_stays(opened: Opened) -> None:
    async def run() -> None:
        async with opened(SessionLimits(max_sessions=20)) as sessions:
            first, second = await sessions.start(ME, NOW), await sessions.start(ME, NOW)
            others = [await sessions.start(OTHER, NOW) for _ in range(18)]
            await sessions.context(second, ME, NOW)  # looking is not speaking
            await sessions.add(first, ME, _said(0), NOW)
            others.append(await sessions.start(OTHER, NOW))
            assert await _goes_on(sessions, first, ME) and not await _goes_on(sessions, second, ME)
            assert all([await _goes_on(sessions, one, OTHER) for one in others])

    asyncio.run(run())


def test_expired_sessions_make_room_at_once() -> None:
    async def run() -> None:
        sessions = MemorySessions(SessionLimits(max_sessions=100))
        for _ in range(150):
            await sessions.start(OTHER, NOW)
        assert len(sessions._sessions) == 100
        await sessions.start(ME, NOW + timedelta(hours=1))
        assert len(sessions._sessions) == 1

    asyncio.run(run())


def test_an_erased_customer_has_no_session_left(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as sessions:
            mine, other = [await _talk(sessions, 1), await sessions.start(ME, NOW)], await sessions.start(OTHER, NOW)
            assert await sessions.forget(ME) == 2
            for one in mine:
                assert not await _goes_on(sessions, one, ME)
                with pytest.raises(UnknownSessionError):
                    await sessions.add(one, ME, _said(1), NOW)
            assert await sessions.context(other, OTHER, NOW) == ()
            assert await sessions.forget(ME) == 0
            assert await _goes_on(sessions, await sessions.start(ME, NOW), ME), "who comes again is welcome"

    asyncio.run(run())


def test_ids_cannot_be_guessed_and_texts_are_not_shown() -> None:
    async def run() -> None:
        sessions = MemorySessions()
        ids = {await sessions.start(ME, NOW) for _ in range(1000)}
        assert len(ids) == 1000 and all(len(one) == 32 for one in ids)
        session_id = await _talk(sessions, 2)
        assert "q1" not in repr(sessions._sessions[session_id]) and "q1" not in repr(_said(1))

    asyncio.run(run())
