"""Feedback and its review, the operator's steps, erasure, the auditor's view, tokens for a first run: over HTTP."""

import asyncio
import json
import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving_world import (
    AGENT,
    AUDITOR,
    FIRST,
    OPERATOR,
    QUESTION,
    SECOND,
    Braked,
    Setting,
    World,
    a_service,
    bytes_of,
    listening,
)

from fedbank.evidence.verify import verify_log
from fedbank.sealing.keys import SigningKey
from fedbank.serving.rollout.desk import RolloutSettings
from fedbank_client.serving.development import is_loopback

SECRET = "暗号-Ω-4417"


async def answered(world: World, subject: str = "C-10023", question: str = QUESTION) -> dict[str, Any]:
    async with world.client(subject=subject) as client:
        found = await client.post("/v1/query", json={"question": question})
        assert found.status_code == 200
        told: dict[str, Any] = found.json()
        return told


def test_a_customers_word_is_reviewed_once_and_the_decision_is_in_the_log(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_service(tmp_path) as world, world.client() as client, world.client(AGENT, "li.na") as agent:
            told = await answered(world)
            said = {"request_id": told["request_id"], "helpful": False, "comment": SECRET}
            assert (await client.post("/v1/feedback", json=said)).status_code == 204
            async with world.client(subject="C-2") as other:
                assert (await other.post("/v1/feedback", json=said)).status_code == 404
            (one,) = (await agent.get("/v1/feedback")).json()["feedback"]
            assert (one["question"], one["answer"], one["comment"]) == (QUESTION, told["answer"], SECRET)
            assert "C-10023" not in json.dumps(one)
            path = f"/v1/feedback/{told['request_id']}/review"
            bare = await agent.post(path, json={"approve": True})
            assert (bare.status_code, bare.json()["type"]) == (422, "urn:fedbank:problem:invalid-request")
            decided = await agent.post(path, json={"approve": True, "corrected": "Visit a branch."})
            assert (decided.json()["state"], decided.json()["corrected"]) == ("approved", "Visit a branch.")
            for again in (
                await agent.post(path, json={"approve": False}),
                await client.post("/v1/feedback", json=said),
            ):
                assert (again.status_code, again.json()["type"]) == (409, "urn:fedbank:problem:feedback-decided")
            (entry,) = world.evidence.entries("review-feedback")
            assert (entry.object, entry.result) == (told["request_id"], "approved")
            (inquiry,) = world.service.feedback.approved_inquiries()
            assert (inquiry.answer, inquiry.customer) == ("Visit a branch.", "C-10023")

    asyncio.run(run())


def test_the_operator_sees_numbers_and_never_a_word(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_service(tmp_path) as world, world.client() as client, world.client(OPERATOR) as operator:
            told = await answered(world, question=SECRET)
            said = {"request_id": told["request_id"], "helpful": True, "comment": SECRET}
            assert (await client.post("/v1/feedback", json=said)).status_code == 204
            status = (await operator.get("/v1/operator/status")).json()
            assert status["releases"]["stable"]["release"] == FIRST
            assert status["traffic"]["now"]["answers"] == 1
            assert status["engine"] == {"ready": True, "said": "", "running": 0, "waiting": 0}
            assert status["feedback"] == {
                "helpful": 1,
                "not_helpful": 0,
                "candidates": 1,
                "approved": 0,
                "rejected": 0,
            }
            metrics = (await operator.get("/metrics")).text
            assert 'fedbank_answers_total{outcome="answered",release="release-1"} 1.0' in metrics
            for text in (json.dumps(status, ensure_ascii=False), metrics):
                assert not [word for word in (SECRET, "C-10023", told["answer"]) if word in text]

    asyncio.run(run())


def test_a_candidate_goes_on_and_back_by_the_operators_hand(tmp_path: Path) -> None:
    async def run() -> None:
        setting = Setting(engine=Braked(free=10_000), rollout=RolloutSettings(automatic=False))
        async with a_service(tmp_path, setting) as world, world.client(OPERATOR, "wang.fang") as operator:
            world.source.name = SECOND
            await world.desk.look(world.now)
            stages = []
            for step in ("promote", "promote", "rollback"):
                view = (await operator.post(f"/v1/operator/{step}", json={})).json()
                found = view["candidate"]
                stages.append((view["stable"]["release"], found and found["stage"]))
            assert stages == [(FIRST, "canary"), (SECOND, None), (FIRST, None)]
            again = await operator.post("/v1/operator/rollback", json={"release": FIRST})
            assert again.status_code == 422
            actors = {entry.actor for entry in world.evidence.entries("release-stable")}
            assert len(actors) == 2 and "wang.fang" not in actors

    asyncio.run(run())


def test_of_an_erased_customer_nothing_is_left_but_the_hash_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with a_service(tmp_path) as world, world.client(OPERATOR) as operator:
            told = await answered(world, question=f"{QUESTION} {SECRET}")
            await answered(world, "C-2")
            async with world.client() as client:
                said = {"request_id": told["request_id"], "helpful": True, "comment": SECRET}
                assert (await client.post("/v1/feedback", json=said)).status_code == 204
                sealed = bytes_of(tmp_path)
                found = await operator.post("/v1/operator/erase", json={"customer": "C-10023"})
                assert found.json() == {"rows": 2, "keys": 1, "sessions": 1}
                more = {"question": "And?", "session_id": told["session_id"]}
                assert (await client.post("/v1/query", json=more)).status_code == 404
            assert (world.answers_of(), len(world.answers_of("C-2"))) == ([], 1)
            name = world.records.customer("C-10023").encode()
            assert name in sealed and name not in bytes_of(tmp_path)
            (entry,) = world.evidence.entries("erase-customer")
            assert (entry.object, entry.result) == (name.decode(), "2 rows")
            assert "C-10023" not in caplog.text

    caplog.set_level(logging.DEBUG)
    asyncio.run(run())


def test_an_erasure_that_broke_off_is_done_by_sending_it_again(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_service(tmp_path, Setting(patience_s=0.05)) as world, world.client(OPERATOR) as operator:
            await answered(world)
            with world.records.reading() as backup:  # it still sees what is deleted, which cannot be overwritten yet
                backup.connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").one()
                first = await operator.post("/v1/operator/erase", json={"customer": "C-10023"})
            assert (first.status_code, first.json()["type"]) == (503, "urn:fedbank:problem:records-unavailable")
            assert int(first.headers["retry-after"]) >= 1
            assert world.evidence.entries("erase-customer") == []
            second = await operator.post("/v1/operator/erase", json={"customer": "C-10023"})
            assert second.status_code == 200 and world.answers_of() == []
            assert len(world.evidence.entries("erase-customer")) == 1

    asyncio.run(run())


def test_the_auditor_reads_every_entry_page_by_page_and_a_checkpoint_over_them(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_service(tmp_path) as world, world.client(AUDITOR) as auditor:
            for _ in range(3):
                await answered(world)
            entries: list[dict[str, Any]] = []
            after: int | None = -1
            while after is not None:
                page = (await auditor.get("/v1/audit/entries", params={"after": after, "limit": 2})).json()
                entries, after = [*entries, *page["entries"]], page["next"]
            assert [entry["seq"] for entry in entries] == [0, 1, 2, 3]
            lines = (tmp_path / "evidence.jsonl").read_bytes().splitlines()
            assert [json.loads(line) for line in lines] == entries
            note = (await auditor.get("/v1/audit/checkpoint")).text
            assert note.startswith("bank-a/serving\n4\n")
            key = SigningKey.derived("serving").public.raw
            assert verify_log(tmp_path / "evidence.jsonl", key, [note]).entries == 4

    asyncio.run(run())


def test_a_log_that_is_not_there_yet_has_no_entries(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_service(tmp_path, Setting(adopted=None)) as world, world.client(AUDITOR) as auditor:
            assert (await auditor.get("/v1/audit/entries")).json() == {"entries": [], "next": None}

    asyncio.run(run())


ASK_TOKEN = {"role": "operator", "subject": "wang.fang"}


def test_a_first_run_gets_tokens_on_this_machine_that_work_for_their_role(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_service(tmp_path, Setting(development=True)) as world, listening(world) as port:
            url = f"http://127.0.0.1:{port}"
            async with httpx.AsyncClient(base_url=url) as client:
                given = (await client.post("/v1/development/token", json=ASK_TOKEN)).json()
                assert (given["token_type"], given["expires_in"]) == ("Bearer", 3600)
                headers = {"Authorization": f"Bearer {given['access_token']}"}
                assert (await client.get("/metrics", headers=headers)).status_code == 200
                assert (await client.get("/v1/models", headers=headers)).status_code == 403
                world.now += timedelta(hours=2)
                assert (await client.get("/metrics", headers=headers)).status_code == 401

    asyncio.run(run())


@pytest.mark.parametrize(
    ("peer", "headers"),
    [
        ("192.0.2.7", {"Host": "127.0.0.1:8100"}),
        ("127.0.0.1", {"Host": "rebound.example:8100"}),
        ("127.0.0.1", {"Host": "127.0.0.1.example"}),
        ("127.0.0.1", {"Host": "["}),
        ("127.0.0.1", {"Host": "localhost", "Origin": "https://evil.example"}),
        ("127.0.0.1", {"Host": "localhost", "Origin": "null"}),
        ("127.0.0.1", {"Host": "localhost", "X-Forwarded-For": "192.0.2.7"}),
        ("127.0.0.1", {"Host": "localhost", "Forwarded": "for=192.0.2.7"}),
    ],
)
def test_nobody_else_gets_a_token(peer: str, headers: dict[str, str], tmp_path: Path) -> None:
    async def run() -> None:
        async with a_service(tmp_path, Setting(development=True)) as world:
            transport = httpx.ASGITransport(world.app, client=(peer, 4000))
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8100") as client:
                answer = await client.post("/v1/development/token", json=ASK_TOKEN, headers=headers)
                assert (answer.status_code, answer.json()["type"]) == (403, "urn:fedbank:problem:not-from-here")
                own = await client.post("/v1/development/token", json=ASK_TOKEN)
                assert own.status_code == (200 if peer == "127.0.0.1" else 403)
                assert not [name for name in own.headers if name.startswith("access-control")]

    asyncio.run(run())


def test_without_a_development_issuer_there_is_no_such_route(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_service(tmp_path) as world, world.client() as client:
            assert (await client.post("/v1/development/token", json=ASK_TOKEN)).status_code == 404
            assert (await client.options("/v1/development/token")).status_code == 404

    asyncio.run(run())


def test_loopback_is_an_address_or_localhost() -> None:
    names = {"127.0.0.1": True, "127.8.0.1": True, "::1": True, "localhost": True, "LOCALHOST": True}
    names |= {"": False, "localhost.example": False, "0.0.0.0": False, "10.0.0.1": False, "127.1": False}
    assert {name: is_loopback(name) for name in names} == names
