"""Batches over HTTP: taken, worked off behind everybody, once each, through whatever happens to engine and process."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
from serving_world import AGENT, QUESTION, Braked, Setting, World, a_service, until

from fedbank.serving.engines.interface import BACKGROUND, DownError, Generation, Health
from fedbank_client.serving.job_worker import work_on_jobs

BATCH = "/v1/batch_query"


def questions(*texts: str) -> dict[str, Any]:
    return {"questions": [{"customer": f"C-{number}", "question": text} for number, text in enumerate(texts)]}


async def submitted(client: httpx.AsyncClient, *texts: str) -> str:
    answer = await client.post(BATCH, json=questions(*texts))
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['job_id']}"
    return answer.headers["location"]


async def over(client: httpx.AsyncClient, job: str) -> dict[str, Any]:
    """The job once it is over."""
    async with asyncio.timeout(30):
        while True:
            found: dict[str, Any] = (await client.get(job)).json()
            if found["is_over"]:
                return found
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def working(world: World) -> AsyncIterator[None]:
    """The worker, until the block ends."""
    stop = asyncio.Event()
    task = asyncio.create_task(work_on_jobs(world.service, stop, look_s=0.02))
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(20):
            await task


def test_a_job_is_answered_and_every_answer_is_kept_under_its_customer(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_service(tmp_path) as world, world.client(AGENT, "li.na") as agent, working(world):
            job = await submitted(agent, QUESTION, "Why?", "我的登录密码是 Xk9#4417", "loan")
            found = await over(agent, job)
            assert (found["total"], found["answered"], found["failed"], found["waiting"]) == (4, 3, 1, 0)
            items = found["items"]
            assert [item["state"] for item in items] == ["answered", "answered", "failed", "answered"]
            for number, item in enumerate(items):
                kept = world.answers_of(f"C-{number}")
                assert [one.answer for one in kept] == ([item["answer"]] if item["answer"] else [])
                assert [one.request_id for one in kept] == ([item["request_id"]] if item["answer"] else [])
            assert "question" not in items[0] and "customer" not in items[0]
            entries = [entry for entry in world.evidence.entries("answer") if entry.result.startswith("answered")]
            assert len({entry.actor for entry in entries}) == 1 and len(entries) == 3
            async with world.client(AGENT, "other") as other:
                assert (await other.get(job)).status_code == 404
                assert (await other.delete(job)).status_code == 404

    asyncio.run(run())


class Recording(Braked):
    """Remembers the priorities that it was asked with, and is down while ``is_down``."""

    def __init__(self) -> None:
        super().__init__(free=10_000)
        self.priorities: list[int] = []
        self.is_down = self.seems_up = False

    async def generate(self, asked: Generation):  # type: ignore[no-untyped-def, override]
        self.priorities.append(asked.priority)
        if self.is_down:
            raise DownError("Expected an engine, got none.", 0.02)
        async for piece in super().generate(asked):
            yield piece

    async def health(self) -> Health:
        return Health(not self.is_down or self.seems_up, "")


def test_nothing_is_claimed_while_the_engine_is_down_and_nobody_goes_behind_a_batch(tmp_path: Path) -> None:
    async def run() -> None:
        engine = Recording()
        async with a_service(tmp_path, Setting(engine=engine)) as world, world.client(AGENT) as agent:
            engine.is_down = True
            job = await submitted(agent, "loan", "Why?")
            async with working(world):
                await asyncio.sleep(0.2)  # ten looks
                assert engine.priorities == []
                engine.is_down = False
                found = await over(agent, job)
            assert found["answered"] == 2
            assert set(engine.priorities) == {BACKGROUND}

    asyncio.run(run())


def test_an_engine_that_fails_again_and_again_costs_no_item_its_attempts(tmp_path: Path) -> None:
    async def run() -> None:
        engine = Recording()
        async with a_service(tmp_path, Setting(engine=engine)) as world, world.client(AGENT) as agent:
            engine.is_down = engine.seems_up = True
            job = await submitted(agent, "loan")
            async with working(world):
                await until(lambda: len(engine.priorities) >= 6)  # twice as many as an item has attempts
                assert (await agent.get(job)).json()["waiting"] == 1
                engine.is_down = False
                assert (await over(agent, job))["answered"] == 1
            assert len(world.answers_of("C-0")) == 1

    asyncio.run(run())


def test_a_stop_gives_back_what_is_being_answered_and_the_next_start_answers_it_once(tmp_path: Path) -> None:
    async def run() -> None:
        braked = Braked(free=0)
        async with a_service(tmp_path, Setting(engine=braked)) as world, world.client(AGENT) as agent:
            job = await submitted(agent, "loan", "Why?", QUESTION)
            async with working(world):
                await until(lambda: braked.inside == 2)
            assert braked.inside == 0
            assert (await agent.get(job)).json()["waiting"] == 3
        async with a_service(tmp_path) as world, world.client(AGENT) as agent, working(world):
            found = await over(agent, job)
            assert found["answered"] == 3
            kept = [one for number in range(3) for one in world.answers_of(f"C-{number}")]
            assert [one.request_id for one in kept] == [item["request_id"] for item in found["items"]]

    asyncio.run(run())


def test_what_a_killed_worker_had_claimed_is_answered_after_its_restart(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_service(tmp_path) as world, world.client(AGENT) as agent:
            job = await submitted(agent, "loan")
            claimed = world.service.jobs.claim(world.service.worker, world.now)  # and then it dies
            assert claimed is not None
        async with a_service(tmp_path) as world, world.client(AGENT) as agent, working(world):
            assert (await over(agent, job))["answered"] == 1

    asyncio.run(run())


def test_a_cancelled_job_is_answered_no_more_and_keeps_what_it_has(tmp_path: Path) -> None:
    async def run() -> None:
        braked = Braked(free=0)
        async with a_service(tmp_path, Setting(engine=braked)) as world, world.client(AGENT) as agent:
            job = await submitted(agent, "loan", "Why?", QUESTION)
            async with working(world):
                await until(lambda: braked.inside == 2)
                found = (await agent.delete(job)).json()
                assert (found["cancelled"], found["waiting"], found["is_over"]) == (3, 0, True)
                braked.go.set()
                await until(lambda: braked.inside == 0)
            assert (await agent.get(job)).json()["answered"] == 0
            assert braked.seen == 2

    asyncio.run(run())


def test_a_store_that_is_locked_delays_the_record_and_loses_no_answer(tmp_path: Path) -> None:
    async def run() -> None:
        braked = Braked(free=0)
        setting = Setting(engine=braked, patience_s=0.05)
        async with a_service(tmp_path, setting) as world, world.client(AGENT) as agent:
            job = await submitted(agent, "loan")
            async with working(world):
                await until(lambda: braked.inside == 1)
                holder = sqlite3.connect(tmp_path / "records.sqlite", isolation_level=None)
                holder.execute("BEGIN IMMEDIATE")
                braked.go.set()
                await until(lambda: braked.inside == 0)
                await asyncio.sleep(0.2)
                holder.close()
                assert (await over(agent, job))["answered"] == 1
            assert len(world.answers_of("C-0")) == 1

    asyncio.run(run())
