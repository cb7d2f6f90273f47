"""The official OpenAI client works unchanged: answers, streams, models, and its own errors."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving_world import (
    AGENT,
    CUSTOMER,
    QUESTION,
    Braked,
    Setting,
    World,
    a_service,
    engine,
    listening,
    token,
)

from fedbank.serving.engines.interface import BusyError, DownError
from fedbank_client.serving.limits import Rates

openai = pytest.importorskip("openai")
ASKED: Any = {"model": "fedbank", "messages": [{"role": "user", "content": QUESTION}]}


def client_of(world: World, role: str = CUSTOMER, **settings: Any) -> Any:
    """The official client, without a network."""
    transport = httpx.ASGITransport(world.app)
    given = {"api_key": token(roles=[role], sub="C-10023"), "max_retries": 0} | settings
    return openai.AsyncOpenAI(
        base_url="http://bank.test/v1", http_client=httpx.AsyncClient(transport=transport), **given
    )


def test_a_completion_and_the_models(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_service(tmp_path) as world, client_of(world) as client:
            found = await client.chat.completions.create(**ASKED, max_tokens=9, temperature=0)
            (choice,) = found.choices
            (kept,) = world.answers_of()
            assert (choice.message.role, choice.message.content) == ("assistant", kept.answer)
            assert choice.finish_reason == "length"
            assert found.usage.completion_tokens == 9
            assert found.usage.total_tokens == found.usage.prompt_tokens + 9
            assert found.fedbank["request_id"] == kept.request_id
            assert {"answer-cut", "ai-generated"} == {notice["code"] for notice in found.fedbank["notices"]}
            assert found._request_id
            assert [model.id async for model in client.models.list()] == ["fedbank"]

    asyncio.run(run())


def test_a_conversation_that_the_caller_keeps_is_read_whole(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_service(tmp_path) as world, client_of(world) as client:
            short = await client.chat.completions.create(**ASKED)
            parts = [{"type": "text", "text": "Why"}, {"type": "text", "text": "so?"}]
            more = [*ASKED["messages"], {"role": "assistant", "content": "No."}, {"role": "user", "content": parts}]
            long = await client.chat.completions.create(**(ASKED | {"messages": more}))
            assert long.usage.prompt_tokens > short.usage.prompt_tokens
            assert [one.session_id for one in world.answers_of()] == ["", ""]
            assert {"Why\nso?", QUESTION} == {one.question for one in world.answers_of()}

    asyncio.run(run())


def test_a_stream_over_a_real_connection(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_service(tmp_path) as world, listening(world) as port:
            key = token(roles=[CUSTOMER])
            async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key) as client:
                whole = await client.chat.completions.create(**ASKED)
                stream = await client.chat.completions.create(
                    **ASKED, stream=True, stream_options={"include_usage": True}
                )
                chunks = [chunk async for chunk in stream]
            first, *_, last, usage = chunks
            assert first.choices[0].delta.role == "assistant"
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
            assert text == whole.choices[0].message.content
            assert last.choices[0].finish_reason == whole.choices[0].finish_reason
            assert last.fedbank["notices"] == whole.fedbank["notices"]
            assert (usage.choices, usage.usage) == ([], whole.usage)
            assert len({chunk.id for chunk in chunks}) == 1

    asyncio.run(run())


def test_a_stream_ends_with_done(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_service(tmp_path) as world, world.client() as client:
            answer = await client.post("/v1/chat/completions", json=ASKED | {"stream": True})
            assert answer.text.endswith("\n\ndata: [DONE]\n\n") and answer.text.count("[DONE]") == 1

    asyncio.run(run())


class Broken(Braked):
    """The real engine, which fails as it is told: before the first token, or after one."""

    def __init__(self, error: Exception, after: int) -> None:
        super().__init__()
        self._error, self._after = error, after

    async def generate(self, asked):  # type: ignore[no-untyped-def]
        if not self._after:
            raise self._error
        count = 0
        async for piece in engine().generate(asked):
            yield piece
            count += 1
            if count == self._after:
                raise self._error


def test_its_errors_are_its_own_types(tmp_path: Path) -> None:
    async def raised(setting: Setting, kind: Any, folder: str, asked: Any = ASKED, **settings: Any) -> Any:
        (tmp_path / folder).mkdir()
        async with a_service(tmp_path / folder, setting) as world, client_of(world, **settings) as client:
            with pytest.raises(kind) as caught:
                await client.chat.completions.create(**asked)
            return caught.value

    async def run() -> None:
        busy = Setting(engine=Broken(BusyError("Expected room in the queue, got none.", 7.0), 0))
        error = await raised(Setting(), openai.AuthenticationError, "401", api_key="none")
        assert error.body["type"] == "urn:fedbank:problem:unauthorized"
        await raised(Setting(), openai.PermissionDeniedError, "403", role="auditor")
        await raised(Setting(), openai.NotFoundError, "404", ASKED | {"model": "gpt"})
        await raised(Setting(), openai.UnprocessableEntityError, "422", ASKED | {"n": 3})
        error = await raised(Setting(rates=Rates(0.5, 0)), openai.RateLimitError, "429")
        assert int(error.response.headers["retry-after"]) == 2
        error = await raised(busy, openai.InternalServerError, "503")
        assert (error.status_code, error.response.headers["retry-after"]) == (503, "7")
        error = await raised(busy, openai.InternalServerError, "stream", ASKED | {"stream": True})
        assert error.status_code == 503

    asyncio.run(run())


def test_a_failure_within_a_stream_is_raised_by_the_client(tmp_path: Path) -> None:
    async def run() -> None:
        down = Broken(DownError("Expected the engine at http://10.0.0.7, got nothing.", 7.0), 70)
        async with a_service(tmp_path, Setting(engine=down)) as world, client_of(world) as client:
            asked = {"model": "fedbank", "messages": [{"role": "user", "content": "我要开户，需要带什么材料？"}]}
            stream = await client.chat.completions.create(**asked, max_tokens=150, stream=True)
            with pytest.raises(openai.APIError, match="Expected an answer of the model") as caught:
                _ = [chunk async for chunk in stream]
            assert caught.value.code == "urn:fedbank:problem:engine-down"
            assert "10.0.0.7" not in json.dumps(caught.value.body)

    asyncio.run(run())


def test_an_agent_names_the_customer_as_its_user(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_service(tmp_path) as world, client_of(world, AGENT) as client:
            await client.chat.completions.create(**ASKED, user="C-2")
            assert (len(world.answers_of("C-2")), len(world.answers_of())) == (1, 0)

    asyncio.run(run())
