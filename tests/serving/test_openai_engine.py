"""The engine behind the OpenAI protocol against another server over real HTTP: answers, releases, and every fault."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from openai_server import BASE, SECRET, TinyServer, serving
from serving_models import (
    QUESTIONS,
    answer_of,
    asking,
    collected,
    expected_text,
    expected_tokens,
    local_tiny,
    write_tiny_adapter,
)

from fedbank.serving.engines.interface import BACKGROUND, BusyError, DownError, EngineError, RequestError
from fedbank.serving.engines.openai_engine import Endpoint, OpenAIEngine

KEY = "key-of-the-test"
QUICK = {"first_s": 0.3, "between_s": 0.3, "answer_s": 0.6}
SILENT = ("hang", "hang after a word", "comments")
"""Faults that only a time limit ends."""


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[TinyServer, str]]:
    with serving(local_tiny(), KEY) as found:
        yield found


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))  # type: ignore[arg-type]


@asynccontextmanager
async def engine(url: str, **changes: object) -> AsyncIterator[OpenAIEngine]:
    opened = OpenAIEngine(replace(Endpoint(url, BASE, KEY), **changes))  # type: ignore[arg-type]
    try:
        yield opened
    finally:
        await opened.close()


def test_answers_stream_and_are_those_of_the_model(server: tuple[TinyServer, str]) -> None:
    async def test() -> None:
        async with engine(server[1]) as here:
            found = await asyncio.gather(*(collected(here.generate(asking(text))) for text in QUESTIONS[:4]))
        for text, pieces in zip(QUESTIONS, found, strict=False):
            assert answer_of(pieces) == expected_text(local_tiny().model, text)
            assert sum(piece.token_count for piece in pieces) == len(expected_tokens(local_tiny().model, text))
            assert [piece.finish is not None for piece in pieces] == [False] * (len(pieces) - 1) + [True]
            assert len(pieces) > 2
            assert pieces[-1].prompt_tokens > 0

    run(test)


def test_a_release_is_loaded_asked_and_unloaded(server: tuple[TinyServer, str], tmp_path: Path) -> None:
    adapted = write_tiny_adapter(tmp_path / "one")

    async def test() -> None:
        async with engine(server[1]) as here:
            with pytest.raises(RequestError):
                await collected(here.generate(asking(QUESTIONS[0], release="one")))
            await here.load("one", tmp_path / "one")
            await here.load("one", tmp_path / "one")  # as after a restart of the service: the server has it still
            pieces = await collected(here.generate(asking(QUESTIONS[0], release="one")))
            assert answer_of(pieces) == expected_text(adapted.base, QUESTIONS[0])
            await here.unload("one")
            with pytest.raises(RequestError):
                await collected(here.generate(asking(QUESTIONS[0], release="one")))
        assert server[0].releases == []

    run(test)


def test_a_release_that_the_server_cannot_read_is_refused(server: tuple[TinyServer, str], tmp_path: Path) -> None:
    async def test() -> None:
        async with engine(server[1]) as here:
            with pytest.raises(RequestError) as refused:
                await here.load("none", tmp_path / "none")
            assert SECRET not in str(refused.value)

    run(test)


def test_closing_the_answer_frees_the_servers_slot(server: tuple[TinyServer, str]) -> None:
    async def test() -> None:
        async with engine(server[1]) as here:
            answer = here.generate(asking(QUESTIONS[0], most=400, temperature=5.0))
            await anext(answer)
            await until(lambda: _running(here, 1))
            await answer.aclose()
            await until(lambda: _running(here, 0))

    run(test)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():
        await asyncio.sleep(0.005)


async def _running(here: OpenAIEngine, number: int) -> bool:
    return (await here.health()).running == number


@pytest.mark.parametrize(
    ("fault", "kind", "retry_s"),
    [
        ("429", BusyError, 7.0),
        ("503", DownError, 7.0),
        ("500", DownError, 5.0),
        ("502", DownError, 5.0),
        ("400", RequestError, None),
        ("404", RequestError, None),
        ("401", DownError, None),
        ("hang", DownError, 5.0),
        ("hang after a word", DownError, 5.0),
        ("comments", DownError, 5.0),
        ("cut", DownError, 5.0),
        ("no JSON", DownError, 5.0),
        ("deep JSON", DownError, 5.0),
        ("no object", DownError, 5.0),
        ("no choices", DownError, 5.0),
        ("no text", DownError, 5.0),
        ("error", DownError, 5.0),
        ("no finish", DownError, 5.0),
        ("no end", DownError, 5.0),
        ("endless words", DownError, 5.0),
        ("endless line", DownError, 5.0),
    ],
)
def test_every_fault_ends_in_an_error_in_bounded_time_that_quotes_nothing(
    server: tuple[TinyServer, str], fault: str, kind: type[EngineError], retry_s: float | None
) -> None:
    async def test() -> None:
        async with engine(server[1], **(QUICK if fault in SILENT else {})) as here:
            began = time.monotonic()
            with pytest.raises(kind) as failed:
                await collected(here.generate(asking(f"fault:{fault}")))
            assert type(failed.value) is kind
            assert failed.value.retry_after_s == retry_s
            assert SECRET not in str(failed.value)
            assert time.monotonic() - began < 15
            if fault not in SILENT:  # the engine itself is as it was
                assert (await collected(here.generate(asking("hi", most=2))))[-1].finish is not None

    run(test)


def test_an_answer_that_takes_too_long_in_all_is_ended(server: tuple[TinyServer, str]) -> None:
    async def test() -> None:
        async with engine(server[1], first_s=30.0, between_s=30.0, answer_s=0.2) as here:
            with pytest.raises(DownError, match="Expected an answer of the engine within"):
                await collected(here.generate(asking("fault:hang after a word")))

    run(test)


def test_a_server_that_is_not_there_is_down_and_not_ready() -> None:
    async def test() -> None:
        async with engine("http://127.0.0.1:9") as here:
            with pytest.raises(DownError):
                await collected(here.generate(asking("hi")))
            with pytest.raises(DownError):
                await here.load("one", Path("/nowhere"))
            health = await here.health()
            assert not health.ready and "cannot be reached" in health.said

    run(test)


def test_health_says_what_the_server_says(server: tuple[TinyServer, str]) -> None:
    async def test() -> None:
        async with engine(server[1]) as here:
            assert (await here.health()).ready
            server[0].down = True
            try:
                health = await here.health()
            finally:
                server[0].down = False
            assert not health.ready and "503" in health.said

    run(test)


def test_more_requests_than_allowed_are_refused_here(server: tuple[TinyServer, str]) -> None:
    async def test() -> None:
        async with engine(server[1], most_running=2) as here:
            held = here.generate(asking(QUESTIONS[0], most=400, temperature=5.0, priority=BACKGROUND))
            await anext(held)
            with pytest.raises(BusyError):
                await collected(here.generate(asking("hi", priority=BACKGROUND)))
            second = here.generate(asking(QUESTIONS[1], most=400, temperature=5.0))
            await anext(second)
            with pytest.raises(BusyError):
                await collected(here.generate(asking("hi")))
            await held.aclose()
            await second.aclose()
            assert (await collected(here.generate(asking("hi", most=2))))[-1].finish

    run(test)


def test_a_wrong_key_is_an_error_for_the_operator(server: tuple[TinyServer, str]) -> None:
    async def test() -> None:
        async with engine(server[1], key="another") as here:
            with pytest.raises(DownError, match="API key") as failed:
                await collected(here.generate(asking("hi")))
            assert failed.value.retry_after_s is None

    run(test)


def test_what_is_sent_holds_no_control_token_and_the_key_is_in_no_repr(server: tuple[TinyServer, str]) -> None:
    async def test() -> None:
        async with engine(server[1]) as here:
            await collected(here.generate(asking("a<|im_end|>b", most=2)))
        assert server[0].seen[-1]["messages"] == [{"role": "user", "content": "a< |im_end|>b"}]
        assert "priority" not in server[0].seen[-1]
        assert KEY not in repr(Endpoint(server[1], BASE, KEY))

    run(test)
