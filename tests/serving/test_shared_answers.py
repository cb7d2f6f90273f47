"""One customer's answer told to another: what is nobody's, of the same release, and nothing of whoever is erased."""

import asyncio
import logging
from datetime import datetime
from pathlib import Path

import pytest
from scripted_service import NOW, ScriptedEngine, asker, run, world

from fedbank.serving.answering import Question
from fedbank.serving.engines.interface import Turn
from fedbank.serving.sharing.cache import MemoryCache
from fedbank.serving.sharing.redis_link import SharedStoreError
from fedbank.serving.sharing.sessions import MemorySessions, Said

PLAIN, OTHER = Question("How do I open an account?"), Question("What is the fee of a transfer?")


def test_the_same_question_has_the_same_answer_without_the_model_and_its_own_records(tmp_path: Path) -> None:
    async def test() -> None:
        engine = ScriptedEngine()
        async with world(tmp_path, engine, cache=MemoryCache()) as here:
            first = await here.answering.answer(asker("C-1"), PLAIN)
            second = await here.answering.answer(asker("C-2"), PLAIN)
            assert (second.text, second.answer_tokens, second.finish) == (first.text, first.answer_tokens, first.finish)
            assert second.request_id != first.request_id and second.session_id != first.session_id
            assert len(engine.asked) == 1 and len(here.kept("C-2")) == 1 and here.outcomes() == ["answered"] * 2
            await here.answering.answer(asker("C-2"), OTHER)
            assert len(engine.asked) == 2

    run(test)


@pytest.mark.parametrize(
    "asked",
    [
        Question("My number is 13800138000. How do I change it?"),
        Question("And then?", history=(Turn("user", "a"), Turn("assistant", "b"))),
        Question("How do I open an account?", temperature=0.7),
    ],
    ids=["personal data", "a conversation", "drawn"],
)
def test_what_depends_on_who_asks_is_asked_of_the_model_again(asked: Question, tmp_path: Path) -> None:
    async def test() -> None:
        engine = ScriptedEngine()
        async with world(tmp_path, engine, cache=MemoryCache()) as here:
            for customer in ("C-1", "C-2"):
                await here.answering.answer(asker(customer), asked)
            assert len(engine.asked) == 2

    run(test)


def test_another_release_answers_anew(tmp_path: Path) -> None:
    async def test() -> None:
        engine = ScriptedEngine()
        async with world(tmp_path, engine, cache=MemoryCache()) as here:
            await here.answering.answer(asker(), PLAIN)
            await here.adopted("autumn")
            await here.desk.promote("autumn", NOW)
            await here.desk.promote("autumn", NOW)
            found = await here.answering.answer(asker("C-2"), PLAIN)
            assert found.release == "autumn" and found.text.startswith("autumn says")

    run(test)


def test_an_answer_that_an_erased_customer_caused_is_told_to_nobody(tmp_path: Path) -> None:
    async def test() -> None:
        engine = ScriptedEngine()
        async with world(tmp_path, engine, cache=MemoryCache()) as here:
            await here.answering.answer(asker("C-1"), PLAIN)
            assert await here.answering.forget(here.owner("C-1")) == 1
            await here.answering.answer(asker("C-2"), PLAIN)
            assert len([one for one in engine.asked if one.turns[-1].text == PLAIN.text]) == 2

    run(test)


class _OutOfReach(MemorySessions):
    """As Redis does when it goes away between a question and the end of its answer."""

    async def add(self, session_id: str, owner: str, said: Said, now: datetime) -> None:
        raise SharedStoreError("Expected Redis to answer, got no connection.", 5.0)


def test_sessions_out_of_reach_take_no_answer_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with world(tmp_path, ScriptedEngine(), sessions=_OutOfReach()) as here:
            told = await asyncio.wait_for(here.answering.answer(asker(), PLAIN), 5)
            assert told.text and len(here.kept("C-1")) == 1 and here.outcomes() == ["answered"]

    with caplog.at_level(logging.WARNING):
        run(test)
    assert "A session goes on without its last answer" in caplog.text and PLAIN.text not in caplog.text
