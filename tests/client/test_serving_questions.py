"""A question over HTTP: answered whole or as it is written, within its session, and gone when its asker is."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from serving_world import (
    AGENT,
    FIRST,
    QUESTION,
    Braked,
    Setting,
    a_service,
    engine,
    events_of,
    listening,
    local_tiny,
    token,
    until,
)

from fedbank.serving.engines.batching import Limits
from fedbank.serving.engines.interface import DownError, Health
from fedbank.serving.engines.transformers_engine import TransformersEngine
from fedbank_client.serving.limits import HttpLimits

Q, LONG = "/v1/query", 70
"""Pieces of the answer to ``TALK`` after which some text is shown, and more comes."""
TALK = "我要开户，需要带什么材料？"


def test_an_answer_is_whole_kept_and_audited_before_it_is_told(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_service(tmp_path) as world, world.client() as client:
            answer = await client.post(Q, json={"question": QUESTION, "max_length": 7})
            told = answer.json()
            (kept,) = world.answers_of()
            assert (told["answer"], told["request_id"], told["release"]) == (kept.answer, kept.request_id, FIRST)
            assert told["token_count"] <= 7 and told["latency_ms"] > 0
            assert "ai-generated" in {notice["code"] for notice in told["notices"]}
            assert told["aigc"]["Label"] == "1"
            assert answer.headers["cache-control"] == "no-store"
            (entry,) = world.evidence.entries("answer")
            assert entry.object == told["request_id"]

    asyncio.run(run())


def test_a_session_goes_on_for_its_owner_and_nobody_else(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_service(tmp_path) as world, world.client() as client, world.client(subject="C-2") as other:
            first = (await client.post(Q, json={"question": QUESTION})).json()
            more = {"question": "And what does it cost?", "session_id": first["session_id"]}
            assert (await client.post(Q, json=more)).json()["session_id"] == first["session_id"]
            assert (await other.post(Q, json=more)).status_code == 404
            async with world.client(AGENT, "li.na") as agent:
                assert (await agent.post(Q, json=more | {"customer": "C-10023"})).status_code == 200

    asyncio.run(run())


def test_a_stream_ends_with_the_whole_answer(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_service(tmp_path) as world, world.client() as client:
            whole = (await client.post(Q, json={"question": TALK, "max_length": 150})).json()
            answer = await client.post(Q, json={"question": TALK, "max_length": 150, "stream": True})
            assert answer.headers["content-type"].startswith("text/event-stream")
            events = [(name, json.loads(data)) for name, data in events_of(answer.text)]
            names = [name for name, _ in events]
            assert names == ["started", *["delta"] * (len(events) - 2), "answered"] and len(events) > 3
            last = events[-1][1]
            assert "".join(data["text"] for name, data in events if name == "delta") == last["answer"]
            assert last["answer"] == whole["answer"] and last.keys() == whole.keys()
            assert events[0][1]["request_id"] == last["request_id"]

    asyncio.run(run())


class Failing(Braked):
    """The real engine, which goes down after two pieces."""

    async def generate(self, asked):  # type: ignore[no-untyped-def]
        count = 0
        async for piece in engine().generate(asked):
            yield piece
            count += bool(piece.text)
            if count == LONG:
                raise DownError("Expected the engine at http://10.0.0.7:8000, got nothing.", 5.0)


def test_an_engine_that_goes_down_within_a_stream_is_a_problem_at_its_end(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_service(tmp_path, Setting(engine=Failing())) as world, world.client() as client:
            answer = await client.post(Q, json={"question": TALK, "max_length": 150, "stream": True})
            *_, (name, data) = events_of(answer.text)
            problem = json.loads(data)
            assert (answer.status_code, name, problem["status"]) == (200, "problem", 503)
            assert problem["type"] == "urn:fedbank:problem:engine-down"
            assert "10.0.0.7" not in answer.text
            ready = await client.get("/ready")
            assert ready.status_code == 200

    asyncio.run(run())


def test_an_engine_that_is_down_is_503_with_a_time_and_the_service_is_not_ready(tmp_path: Path) -> None:
    class Down(Braked):
        async def generate(self, asked):  # type: ignore[no-untyped-def]
            raise DownError("Expected the engine at http://10.0.0.7:8000, got nothing.", 4.2)
            yield

        async def health(self) -> Health:
            return Health(False, "Expected the engine at http://10.0.0.7:8000, got nothing.")

    async def run() -> None:
        async with a_service(tmp_path, Setting(engine=Down())) as world, world.client() as client:
            for stream in (False, True):
                answer = await client.post(Q, json={"question": QUESTION, "stream": stream})
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
                assert "10.0.0.7" not in answer.text
            ready = await client.get("/ready")
            assert (ready.status_code, ready.json()["type"]) == (503, "urn:fedbank:problem:not-ready")
            assert "10.0.0.7" not in ready.text
            assert (await client.get("/health")).status_code == 200

    asyncio.run(run())


def test_without_a_release_nothing_is_answered_and_the_service_is_not_ready(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_service(tmp_path, Setting(adopted=None)) as world, world.client() as client:
            answer = await client.post(Q, json={"question": QUESTION})
            assert (answer.status_code, answer.json()["type"]) == (503, "urn:fedbank:problem:no-release")
            assert (await client.get("/ready")).status_code == 503

    asyncio.run(run())


def test_a_full_queue_is_503_with_a_time_and_whoever_is_in_it_is_answered(tmp_path: Path) -> None:
    async def run() -> None:
        full = TransformersEngine(local_tiny(), Limits(max_running=1, max_waiting=1))
        async with a_service(tmp_path, Setting(engine=full)) as world, world.client() as client:
            asked = {"question": TALK, "max_length": 150}
            answers = await asyncio.gather(*(client.post(Q, json=asked) for _ in range(6)))
            refused = [answer for answer in answers if answer.status_code == 503]
            assert len(refused) >= 3
            assert {answer.status_code for answer in answers} == {200, 503}
            assert all(answer.json()["type"] == "urn:fedbank:problem:engine-busy" for answer in refused)
            assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        await full.close()

    asyncio.run(run())


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_takes_too_long_is_ended_and_its_slot_is_free(stream: bool, tmp_path: Path) -> None:
    async def run() -> None:
        slow = Braked(free=LONG)
        setting = Setting(engine=slow, limits=HttpLimits(request_s=2.5))
        async with a_service(tmp_path, setting) as world, world.client() as client:
            answer = await client.post(Q, json={"question": TALK, "max_length": 150, "stream": stream})
            problem = json.loads(events_of(answer.text)[-1][1]) if stream else answer.json()
            assert (problem["status"], problem["type"]) == (504, "urn:fedbank:problem:deadline")
            assert slow.inside == 0 and slow.seen == 1

    asyncio.run(run())


async def asked_over(port: int, stream: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection with a question on it."""
    content = json.dumps({"question": TALK, "max_length": 150, "stream": stream}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST {Q} HTTP/1.1\r\nHost: bank.test\r\nAuthorization: Bearer {token(roles=['customer-channel'])}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    writer.write(head.encode() + content)
    return reader, writer


@pytest.mark.parametrize("stream", [False, True])
def test_whoever_leaves_frees_the_slot_and_what_was_shown_is_kept(stream: bool, tmp_path: Path) -> None:
    async def run() -> None:
        braked = Braked(free=LONG)
        async with a_service(tmp_path, Setting(engine=braked)) as world, listening(world) as port:
            reader, writer = await asked_over(port, stream)
            await until(lambda: braked.inside == 1)
            if stream:
                await reader.readuntil(b"event: delta")
            writer.transport.abort()
            await until(lambda: braked.inside == 0)
            await until(lambda: world.evidence.entries("answer"))
            (entry,) = world.evidence.entries("answer")
            assert entry.result.startswith("cancelled;")
            assert not stream or len(world.answers_of("zhang.wei")) == 1
            braked.go.set()
            good = {"Authorization": f"Bearer {token(roles=['customer-channel'], sub='C-2')}"}
            assert (await _post(f"http://127.0.0.1:{port}{Q}", good)).status_code == 200

    asyncio.run(run())


def test_a_service_that_is_full_says_so_and_is_alive(tmp_path: Path) -> None:
    async def run() -> None:
        braked = Braked(free=0)
        setting = Setting(engine=braked, limits=HttpLimits(at_once=1))
        async with a_service(tmp_path, setting) as world, world.client() as client:
            asking = asyncio.create_task(client.post(Q, json={"question": QUESTION}))
            await until(lambda: braked.inside == 1)
            full = await client.get("/v1/models")
            assert (full.status_code, full.json()["type"]) == (503, "urn:fedbank:problem:overloaded")
            assert (await client.get("/health")).status_code == 200
            braked.go.set()
            assert (await asking).status_code == 200
            assert (await client.get("/v1/models")).status_code == 200

    asyncio.run(run())


def test_answers_that_run_are_finished_when_the_service_stops(tmp_path: Path) -> None:
    async def run() -> None:
        braked = Braked(free=3)
        async with a_service(tmp_path, Setting(engine=braked)) as world:
            async with listening(world) as port:
                url = f"http://127.0.0.1:{port}{Q}"
                good = {"Authorization": f"Bearer {token(roles=['customer-channel'])}"}
                asking = asyncio.create_task(_post(url, good))
                await until(lambda: braked.inside == 1)
                asyncio.get_running_loop().call_later(0.2, braked.go.set)
            assert (await asking).status_code == 200

    asyncio.run(run())


def test_a_stop_does_not_wait_for_ever_and_says_so_to_whoever_waits(tmp_path: Path) -> None:
    async def run() -> None:
        braked = Braked(free=3)
        setting = Setting(engine=braked, limits=HttpLimits(shutdown_s=1))
        async with a_service(tmp_path, setting) as world:
            async with listening(world) as port:
                good = {"Authorization": f"Bearer {token(roles=['customer-channel'])}"}
                asking = asyncio.create_task(_post(f"http://127.0.0.1:{port}{Q}", good))
                await until(lambda: braked.inside == 1)
            answer = await asking
            assert (answer.status_code, answer.json()["type"]) == (503, "urn:fedbank:problem:stopping")
            assert braked.inside == 0

    asyncio.run(run())


async def _post(url: str, headers: dict[str, str]) -> httpx.Response:
    async with httpx.AsyncClient(timeout=30) as client:
        return await client.post(url, json={"question": QUESTION, "max_length": 50}, headers=headers)
