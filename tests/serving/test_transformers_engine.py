"""The engine in this process as the service uses it: asynchronously, several at once, cancelled, overloaded, closed."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
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

from fedbank.errors import ModelError
from fedbank.model.loading import ModelSpec
from fedbank.serving.engines.batching import Limits
from fedbank.serving.engines.interface import BACKGROUND, BusyError, DownError, Piece, RequestError
from fedbank.serving.engines.transformers_engine import LocalModel, TransformersEngine

LONG = 400
"""Tokens that nobody waits for: the tiny model needs a second or more."""


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))  # type: ignore[arg-type]


@asynccontextmanager
async def engine(
    local: LocalModel | None = None, step_s: float = 60.0, **limits: Any
) -> AsyncIterator[TransformersEngine]:
    opened = TransformersEngine(local or local_tiny(), Limits(**limits), step_s=step_s)
    try:
        yield opened
    finally:
        await opened.close()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():
        await asyncio.sleep(0.005)


async def idle(here: TransformersEngine) -> bool:
    health = await here.health()
    return health.running == health.waiting == 0


def endless() -> LocalModel:
    """The tiny model, never at an end of its own accord."""
    return replace(local_tiny(), model=_Endless(local_tiny().model), tokenizer=local_tiny().tokenizer)


class _Endless:
    """The real model with its end token forbidden."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, **given: Any) -> Any:
        found = self._model(**given)
        found.logits[..., 3] = -1e9
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def test_eight_at_once_get_the_answers_that_each_gets_alone() -> None:
    async def test() -> None:
        async with engine() as here:
            together = await asyncio.gather(*(collected(here.generate(asking(text))) for text in QUESTIONS))
        for text, pieces in zip(QUESTIONS, together, strict=True):
            assert answer_of(pieces) == expected_text(local_tiny().model, text)
            assert sum(piece.token_count for piece in pieces) == len(expected_tokens(local_tiny().model, text))
            assert [piece.finish for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
            assert pieces[-1].prompt_tokens > 0

    run(test)


def test_an_answer_that_reaches_its_length_says_so() -> None:
    async def test() -> None:
        async with engine(endless()) as here:
            pieces = await collected(here.generate(asking(QUESTIONS[0], most=5)))
            assert (len(pieces), pieces[-1].finish) == (5, "length")
            pieces = await collected(here.generate(asking(QUESTIONS[0], most=10**5)))
            assert sum(piece.token_count for piece in pieces) + pieces[-1].prompt_tokens == 512

    run(test)


def test_cancelling_frees_the_slot_for_who_waits() -> None:
    async def test() -> None:
        async with engine(endless(), max_running=1) as here:
            first = here.generate(asking(QUESTIONS[0], most=LONG))
            assert (await anext(first)).finish is None
            second = asyncio.create_task(collected(here.generate(asking(QUESTIONS[1], most=3))))
            await until(lambda: _waiting(here, 1))
            await first.aclose()
            assert len(await second) == 3
            await until(lambda: idle(here))

    run(test)


def test_a_task_that_is_cancelled_while_it_waits_leaves_the_queue() -> None:
    async def test() -> None:
        async with engine(endless(), max_running=1) as here:
            first = here.generate(asking(QUESTIONS[0], most=LONG))
            await anext(first)
            second = asyncio.create_task(collected(here.generate(asking(QUESTIONS[1]))))
            await until(lambda: _waiting(here, 1))
            second.cancel()
            await until(lambda: _waiting(here, 0))
            await first.aclose()
            await until(lambda: idle(here))

    run(test)


async def _waiting(here: TransformersEngine, number: int) -> bool:
    return (await here.health()).waiting == number


def test_a_full_queue_refuses_at_once_and_says_when_to_come_again() -> None:
    async def test() -> None:
        async with engine(endless(), max_running=1, max_waiting=1) as here:
            first = here.generate(asking(QUESTIONS[0], most=LONG))
            await anext(first)
            second = asyncio.create_task(collected(here.generate(asking(QUESTIONS[1], most=2))))
            await until(lambda: _waiting(here, 1))
            with pytest.raises(BusyError) as refused:
                await collected(here.generate(asking(QUESTIONS[2])))
            assert (refused.value.retry_after_s or 0) >= 1
            await first.aclose()
            await second

    run(test)


def test_nobody_waits_in_the_queue_for_longer_than_the_limit() -> None:
    async def test() -> None:
        async with engine(endless(), max_running=1, max_wait_s=0.5) as here:
            first = here.generate(asking(QUESTIONS[0], most=LONG))
            await anext(first)
            with pytest.raises(BusyError, match=r"free slot within 0\.5 s"):
                await collected(here.generate(asking(QUESTIONS[1])))
            await first.aclose()

    run(test)


def test_a_person_is_answered_while_background_requests_fill_their_half() -> None:
    async def test() -> None:
        async with engine(endless(), max_running=2) as here:
            jobs = [
                asyncio.create_task(collected(here.generate(asking(text, most=LONG, priority=BACKGROUND))))
                for text in QUESTIONS[:3]
            ]
            await until(lambda: _waiting(here, 2))
            assert len(await collected(here.generate(asking(QUESTIONS[4], most=2)))) == 2
            assert not any(job.done() for job in jobs)
            for job in jobs:
                job.cancel()

    run(test)


def test_releases_answer_side_by_side_and_each_with_its_own_adapter(tmp_path: Path) -> None:
    adapted = {name: write_tiny_adapter(tmp_path / name, seed) for name, seed in (("one", 11), ("two", 12))}

    async def test() -> None:
        async with engine() as here:
            for name in adapted:
                await here.load(name, tmp_path / name)
            names: list[str | None] = [None, "one", "two"]
            asked = [(text, name) for text in QUESTIONS[:3] for name in names]
            found = await asyncio.gather(
                *(collected(here.generate(asking(text, release=name))) for text, name in asked)
            )
            for (text, name), pieces in zip(asked, found, strict=True):
                model = adapted[name].base if name else local_tiny().model
                assert answer_of(pieces) == expected_text(model, text)
            assert len({answer_of(pieces) for pieces in found[:3]}) == 3

    run(test)


def test_unloading_waits_for_who_is_being_answered_and_refuses_newcomers(tmp_path: Path) -> None:
    write_tiny_adapter(tmp_path / "one")

    async def test() -> None:
        async with engine() as here:
            await here.load("one", tmp_path / "one")
            here._batches["one"]._model = _Endless(here._batches["one"]._model)
            running = here.generate(asking(QUESTIONS[0], most=40, release="one"))
            pieces: list[Piece] = [await anext(running)]
            unloading = asyncio.create_task(here.unload("one"))
            await asyncio.sleep(0)
            with pytest.raises(RequestError, match="a release that is loaded"):
                await collected(here.generate(asking(QUESTIONS[1], release="one")))
            pieces += [piece async for piece in running]
            assert len(pieces) == 40
            await unloading
            with pytest.raises(RequestError, match="a release that is loaded"):
                await collected(here.generate(asking(QUESTIONS[1], release="one")))

    run(test)


def test_a_release_that_comes_back_while_it_leaves_is_there_in_the_end(tmp_path: Path) -> None:
    adapted = write_tiny_adapter(tmp_path / "one")

    async def test() -> None:
        async with engine() as here:
            await here.load("one", tmp_path / "one")
            running = here.generate(asking(QUESTIONS[0], release="one"))
            await anext(running)
            leaving = asyncio.create_task(here.unload("one"))
            await asyncio.sleep(0)
            back = asyncio.create_task(here.load("one", tmp_path / "one"))
            await running.aclose()
            await asyncio.gather(leaving, back)
            pieces = await collected(here.generate(asking(QUESTIONS[1], release="one")))
            assert answer_of(pieces) == expected_text(adapted.base, QUESTIONS[1])

    run(test)


def test_a_release_of_another_base_model_is_not_loaded(tmp_path: Path) -> None:
    write_tiny_adapter(tmp_path / "one", base="e" * 64)

    async def test() -> None:
        async with engine() as here:
            with pytest.raises(ModelError):
                await here.load("one", tmp_path / "one")
            with pytest.raises(RequestError):
                await collected(here.generate(asking(QUESTIONS[0], release="one")))

    run(test)


class _Broken(_Endless):
    """A model that torch gives up on for prompts of more than 20 tokens: as out of memory is."""

    def __call__(self, **given: Any) -> Any:
        if given["input_ids"].shape[1] > 20:
            raise RuntimeError("CUDA out of memory: 我要开户")
        return super().__call__(**given)


def test_an_error_of_torch_ends_its_batch_and_not_the_engine() -> None:
    async def test() -> None:
        async with engine(replace(local_tiny(), model=_Broken(local_tiny().model))) as here:
            with pytest.raises(DownError) as failed:
                await collected(here.generate(asking(QUESTIONS[2])))
            assert "我要" not in str(failed.value)
            assert len(await collected(here.generate(asking("hi", most=3)))) == 3
            assert (await here.health()).ready
            await until(lambda: idle(here))

    run(test)


class _Dead(_Endless):
    def __call__(self, **given: Any) -> Any:
        raise SystemExit("the thread ends")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_whoever_waits_is_told_when_the_engine_dies_and_it_is_not_ready() -> None:
    async def test() -> None:
        async with engine(replace(local_tiny(), model=_Dead(local_tiny().model))) as here:
            with pytest.raises(DownError):
                await collected(here.generate(asking(QUESTIONS[0])))
            assert not (await here.health()).ready
            with pytest.raises(DownError):
                await collected(here.generate(asking(QUESTIONS[0])))

    run(test)


class _Stuck(_Endless):
    """A step that ends when the test says so."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.go_on = threading.Event()

    def __call__(self, **given: Any) -> Any:
        self.go_on.wait(30)
        return super().__call__(**given)


def test_a_step_that_does_not_end_is_noticed_in_bounded_time() -> None:
    async def test() -> None:
        model = _Stuck(local_tiny().model)
        async with engine(replace(local_tiny(), model=model), step_s=0.05, max_wait_s=0.5) as here:
            with pytest.raises(DownError, match="next token within"):
                await collected(here.generate(asking(QUESTIONS[0])))
            assert not (await here.health()).ready
            model.go_on.set()
            await until(lambda: _ready(here))

    run(test)


async def _ready(here: TransformersEngine) -> bool:
    return (await here.health()).ready


def test_closing_tells_whoever_waits() -> None:
    async def test() -> None:
        here = TransformersEngine(endless(), Limits(max_running=1))
        first = here.generate(asking(QUESTIONS[0], most=LONG))
        await anext(first)
        second = asyncio.create_task(collected(here.generate(asking(QUESTIONS[1]))))
        await until(lambda: _waiting(here, 1))
        await here.close()
        with pytest.raises(DownError):
            await collected(first)
        with pytest.raises(DownError):
            await second
        assert not (await here.health()).ready
        with pytest.raises(DownError):
            await collected(here.generate(asking(QUESTIONS[0])))

    run(test)


def test_what_cannot_be_answered_is_refused_before_it_waits() -> None:
    async def test() -> None:
        async with engine(max_tokens=100) as here:
            for wrong in (asking("hi", most=0), asking("我" * 600), asking("hi", most=100), asking("hi", release="no")):
                with pytest.raises(RequestError) as refused:
                    await collected(here.generate(wrong))
                assert "我" not in str(refused.value)

    run(test)


def test_a_model_that_is_quantised_for_training_is_refused() -> None:
    with pytest.raises(ModelError, match=r"engine\.precision=int8 or int4"):
        LocalModel.load(ModelSpec("tiny", quantisation="nf4"), "")
