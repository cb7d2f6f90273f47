"""What a conversation remembers, and for how long; whose it is."""

import asyncio
from datetime import timedelta

import pytest
from bank_records import NOW

from fedbank.serving.sessions import MemorySessions, Said, SessionLimits, UnknownSessionError, fitting

ME, OTHER = "a" * 32, "b" * 32


def _said(number: int, tokens: int = 10) -> Said:
    return Said(f"q{number}", f"a{number}", tokens)


async def _talk(sessions: MemorySessions, count: int, tokens: int = 10) -> str:
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


def test_the_turns_come_back_in_order_and_bounded() -> None:
    async def run() -> None:
        sessions = MemorySessions(SessionLimits(max_turns=4))
        session_id = await _talk(sessions, 3)
        turns = await sessions.context(session_id, ME, NOW)
        assert [(turn.role, turn.text) for turn in turns] == [
            ("user", "q1"),
            ("assistant", "a1"),
            ("user", "q2"),
            ("assistant", "a2"),
        ]

    asyncio.run(run())


def test_a_session_is_its_owners_alone() -> None:
    async def run() -> None:
        sessions = MemorySessions()
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
def test_a_session_ends_when_nobody_speaks_and_at_the_latest_after_its_lifetime(at: list[int], there: bool) -> None:
    async def run() -> bool:
        sessions = MemorySessions(SessionLimits(lifetime=timedelta(hours=2)))
        session_id = await sessions.start(ME, NOW)
        try:
            for minutes in at:
                await sessions.add(session_id, ME, _said(minutes), NOW + timedelta(minutes=minutes))
        except UnknownSessionError:
            return False
        return True

    assert asyncio.run(run()) is there


def test_looking_at_a_session_does_not_keep_it() -> None:
    async def run() -> None:
        sessions = MemorySessions()
        session_id = await sessions.start(ME, NOW)
        assert await sessions.context(session_id, ME, NOW + timedelta(minutes=29)) == ()
        with pytest.raises(UnknownSessionError):
            await sessions.context(session_id, ME, NOW + timedelta(minutes=31))

    asyncio.run(run())


def test_memory_is_bounded_and_who_spoke_last_stays() -> None:
    async def run() -> None:
        sessions = MemorySessions(SessionLimits(max_sessions=100))
        first, second = await sessions.start(ME, NOW), await sessions.start(ME, NOW)
        for _ in range(98):
            await sessions.start(OTHER, NOW)
        await sessions.add(first, ME, _said(0), NOW)
        await sessions.start(OTHER, NOW)
        assert len(sessions._sessions) == 100
        assert await sessions.context(first, ME, NOW)
        with pytest.raises(UnknownSessionError):
            await sessions.context(second, ME, NOW)
        await sessions.start(ME, NOW + timedelta(hours=1))
        assert len(sessions._sessions) == 1, "expired ones make room at once"

    asyncio.run(run())


def test_an_erased_customer_has_no_session_left() -> None:
    async def run() -> None:
        sessions = MemorySessions()
        mine, other = await _talk(sessions, 1), await sessions.start(OTHER, NOW)
        assert await sessions.forget(ME) == 1
        with pytest.raises(UnknownSessionError):
            await sessions.context(mine, ME, NOW)
        assert await sessions.context(other, OTHER, NOW) == ()

    asyncio.run(run())


def test_ids_cannot_be_guessed_and_texts_are_not_shown() -> None:
    async def run() -> None:
        sessions = MemorySessions()
        ids = {await sessions.start(ME, NOW) for _ in range(1000)}
        assert len(ids) == 1000 and all(len(one) == 32 for one in ids)
        session_id = await _talk(sessions, 2)
        assert "q1" not in repr(sessions._sessions[session_id]) and "q1" not in repr(_said(1))

    asyncio.run(run())
