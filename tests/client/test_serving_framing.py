"""What hostile clients found once: framing, headers, stock of requests, slots, numbers, words in problem documents."""

import asyncio
import logging
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from serving_world import OPERATOR, QUESTION, Braked, Setting, a_service, listening, until

from fedbank.prompt_http import PromptProtocol
from fedbank_client.serving.bodies import QueryBody
from fedbank_client.serving.edge import check_framing
from fedbank_client.serving.limits import HttpLimits, Rates
from fedbank_client.serving.openai_bodies import ChatBody
from fedbank_client.serving.problems import RefusedError

CHUNKED, SIX = (b"transfer-encoding", b"chunked"), (b"content-length", b"6")
HEALTH = b"GET /health HTTP/1.1\r\nHost: bank.test\r\n\r\n"
MESSAGES = [{"role": "user", "content": "Why?"}]


def scope(*headers: tuple[bytes, bytes], version: str = "1.1", path: bytes = b"/") -> dict[str, Any]:
    return {"headers": list(headers), "http_version": version, "raw_path": path, "query_string": b""}


@pytest.mark.parametrize(
    "found",
    [
        scope(CHUNKED, SIX),
        scope(SIX, SIX),
        scope((b"x", b"a" * 1000)),
        scope(*[(b"x%d" % number, b"") for number in range(200)]),
        scope(path=b"/" + b"a" * 1000),
        scope(version="2.0"),
        scope(version="9.9"),
    ],
)
def test_headers_that_are_too_long_or_can_be_read_in_two_ways_are_refused(found: dict[str, Any]) -> None:
    with pytest.raises(RefusedError, match="one length of the body"):
        check_framing(found, 1000)
    check_framing(scope(SIX), 1000)
    check_framing(scope(CHUNKED, version="1.0"), 1000)


def test_a_request_hidden_in_the_body_of_another_is_not_answered(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_service(tmp_path) as world, listening(world) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = b"POST /v1/query HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
            writer.write(head + b"0\r\n\r\n" + HEALTH)
            answers = await asyncio.wait_for(reader.read(), 10)  # to the end of the connection
            assert answers.startswith(b"HTTP/1.1 400") and b"HTTP/1.1 200" not in answers
            writer.close()

    asyncio.run(run())


def test_a_stock_of_requests_is_answered_one_after_another_with_time_for_others(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_service(tmp_path) as world, listening(world) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                began = time.monotonic()
                writer.write(HEALTH * 31)
                assert (await client.get("/health")).status_code == 200
                answers = b""
                while answers.count(b"HTTP/1.1 200") < 31:
                    answers += await asyncio.wait_for(reader.read(65_536), 10)
            assert time.monotonic() - began >= 30 * 0.01
            writer.close()

    asyncio.run(run())


def test_one_principal_has_few_questions_open_and_all_of_them_again_once_they_are_over(tmp_path: Path) -> None:
    async def run() -> None:
        braked = Braked()
        setting = Setting(engine=braked, rates=Rates(1000, 1000, most_open=2))
        async with (
            a_service(tmp_path, setting) as world,
            world.client() as client,
            world.client(subject="C-2") as other,
        ):
            asked = {"question": QUESTION, "max_length": 8}
            first = [
                asyncio.create_task(client.post("/v1/query", json=asked | more)) for more in ({}, {"stream": True})
            ]
            await until(lambda: braked.inside == 2)
            try:
                third = await asyncio.wait_for(client.post("/v1/query", json=asked), 10)
            except TimeoutError:
                braked.go.set()  # else nothing here would end
                raise
            assert (third.status_code, third.headers["retry-after"]) == (429, "2")
            assert third.json()["type"] == "urn:fedbank:problem:rate-limited"
            of_other = asyncio.create_task(other.post("/v1/query", json=asked))
            await until(lambda: braked.inside == 3)
            braked.go.set()
            assert [answer.status_code for answer in await asyncio.gather(*first, of_other)] == [200, 200, 200]
            for _ in range(3):  # whatever they end with
                assert (await client.post("/v1/query", json={"question": " "})).status_code == 422
            assert not world.service.rates._open

    asyncio.run(run())


def test_a_connection_that_is_closed_and_never_read_gives_way_first() -> None:
    def connection(heard_at: float, *, closing: bool, at_work: bool) -> Any:
        made = object.__new__(PromptProtocol)
        gone: list[bool] = []
        made.transport = SimpleNamespace(is_closing=lambda: closing, abort=lambda: gone.append(True))
        made.cycle = SimpleNamespace(response_complete=not at_work)
        made._heard_at, made.gone = heard_at, gone  # type: ignore[attr-defined]
        return made

    idle, deaf = connection(1.0, closing=False, at_work=False), connection(2.0, closing=True, at_work=True)
    working = connection(0.0, closing=False, at_work=True)
    new = connection(3.0, closing=False, at_work=False)
    new.connections, new.most_connections = {idle, deaf, working, new}, 3
    assert new._has_room() and (deaf.gone, idle.gone) == ([True], [])
    new.most_connections = 2
    assert new._has_room() and idle.gone == [True]
    new.most_connections = 1
    assert not new._has_room() and not working.gone


@pytest.mark.parametrize("found", [16, 16.0])
def test_an_integer_is_what_json_schema_calls_one(found: float) -> None:
    assert QueryBody(question="Why?", max_length=found).max_length == 16  # type: ignore[arg-type]
    body = ChatBody.model_validate({"model": "fedbank", "messages": MESSAGES, "seed": found, "max_tokens": found})
    assert (body.seed, body.most_tokens()) == (16, 16)


@pytest.mark.parametrize(
    "field", [{"seed": "16"}, {"seed": True}, {"seed": 1.5}, {"temperature": "1"}, {"top_p": True}, {"max_tokens": 0.0}]
)
def test_words_and_halves_are_no_numbers(field: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ChatBody.model_validate({"model": "fedbank", "messages": MESSAGES, **field})


def test_no_word_of_a_request_is_echoed_or_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with a_service(tmp_path) as world, world.client() as client, world.client(OPERATOR) as operator:
            told = await client.post(
                "/v1/chat/completions", json={"model": "fedbank", "messages": [{"role": "KANARIE", "content": "a"}]}
            )
            assert told.status_code == 422 and "KANARIE" not in told.text
            assert told.json()["errors"] == [{"at": "messages.0", "said": "Input should be one of 'user', 'assistant'"}]
            assert (await client.request("KANARIE", "/health")).status_code == 405
            assert "KANARIE" not in (await operator.get("/metrics")).text

    with caplog.at_level(logging.DEBUG):
        asyncio.run(run())
    assert "- /health 405" in caplog.text or "- - 405" in caplog.text
    assert "KANARIE" not in "".join(one.getMessage() for one in caplog.records if one.name.startswith("fedbank"))


def test_long_headers_are_refused_however_they_arrive(tmp_path: Path) -> None:
    async def run() -> None:
        setting = Setting(limits=HttpLimits(header_bytes=2000))
        async with a_service(tmp_path, setting) as world, listening(world) as port:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                assert (await client.get("/health", headers={"X": "a" * 1500})).status_code == 200
                answer = await client.get("/health", headers={"X": "a" * 3000})
            assert (answer.status_code, answer.json()["type"]) == (400, "urn:fedbank:problem:malformed")

    asyncio.run(run())
