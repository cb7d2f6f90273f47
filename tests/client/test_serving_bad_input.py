"""Whatever is sent: a clear problem document, nothing of the customer's in it or in a log, nothing lost, and no 500."""

import contextlib
import json
import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from serving_world import AGENT, AUDITOR, CUSTOMER, OPERATOR, QUESTION, Setting, World, a_service, exchange
from sqlalchemy import event

from fedbank.evidence.verify import verify_log
from fedbank.sealing.keys import SigningKey
from fedbank.serving.store.database import RecordsError
from fedbank.serving.store.jobs import JobLimits
from fedbank_client.serving.limits import HttpLimits, check_plain
from fedbank_client.serving.problems import KINDS

WORDS = "marker-4417-机密"
Q, CHAT, BATCH, JSON = "/v1/query", "/v1/chat/completions", "/v1/batch_query", {"Content-Type": "application/json"}
STATUS = {kind.name: kind.status for kind in KINDS}


def query(**fields: Any) -> dict[str, Any]:
    return {"json": {"question": f"{QUESTION} {WORDS}", **fields}}


def raw(content: bytes, **headers: str) -> dict[str, Any]:
    return {"content": content, "headers": JSON | headers}


def chat(**fields: Any) -> dict[str, Any]:
    return {"json": {"model": "fedbank", "messages": [{"role": "user", "content": WORDS}], **fields}}


def batch(*questions: str, customer: str = "C-1") -> dict[str, Any]:
    return {"json": {"questions": [{"customer": customer, "question": text} for text in questions]}}


async def pieces(size: int) -> AsyncIterator[bytes]:
    yield b'{"question": "'
    for _ in range(size // 1024):
        yield b"a" * 1024
    yield WORDS.encode() + b'"}'


DEEP = b'{"question": ' + b"[" * 40 + b"]" * 40 + b"}"
BOTTOMLESS = b'{"question": ' + b'{"a":' * 8000 + b"1" + b"}" * 8000 + b"}"
ROWS: dict[str, tuple[str, str, str, dict[str, Any], str]] = {
    "no JSON": (CUSTOMER, "POST", Q, raw(WORDS.encode()), "malformed"),
    "half of a JSON object": (CUSTOMER, "POST", Q, raw(b'{"question": "' + WORDS.encode()), "malformed"),
    "nothing": (CUSTOMER, "POST", Q, raw(b""), "malformed"),
    "an array": (CUSTOMER, "POST", Q, raw(json.dumps([WORDS]).encode()), "malformed"),
    "no UTF-8": (CUSTOMER, "POST", Q, raw('{"question": "机密"}'.encode("gb18030")), "malformed"),
    "UTF-16": (CUSTOMER, "POST", Q, raw(f'{{"question": "{WORDS}"}}'.encode("utf-16")), "malformed"),
    "half a character": (CUSTOMER, "POST", Q, raw(b'{"question": "\\ud83d"}'), "malformed"),
    "half a character as a name": (CUSTOMER, "POST", Q, raw(b'{"\\ud83d": 1, "question": "a"}'), "malformed"),
    "a name twice": (CUSTOMER, "POST", Q, raw(b'{"question": "a", "question": "b"}'), "malformed"),
    "NaN": (CUSTOMER, "POST", CHAT, raw(b'{"temperature": NaN}'), "malformed"),
    "JSON 40 deep": (CUSTOMER, "POST", Q, raw(DEEP), "malformed"),
    "JSON 8000 deep": (CUSTOMER, "POST", Q, raw(BOTTOMLESS), "malformed"),
    "another type": (CUSTOMER, "POST", Q, raw(b"{}", **{"Content-Type": "text/plain"}), "unsupported-media-type"),
    "a form": (CUSTOMER, "POST", Q, {"data": {"question": WORDS}}, "unsupported-media-type"),
    "no type": (CUSTOMER, "POST", Q, {"content": b"{}"}, "unsupported-media-type"),
    "compressed": (CUSTOMER, "POST", Q, raw(b"{}", **{"Content-Encoding": "gzip"}), "unsupported-media-type"),
    "a prompt of 1 MB": (CUSTOMER, "POST", Q, query(question="a" * 1_000_000), "too-large"),
    "1 MB unannounced": (CUSTOMER, "POST", Q, {"content": pieces(1 << 20), "headers": JSON}, "too-large"),
    "a batch of 5 MB": (AGENT, "POST", BATCH, batch(*["a" * 5000] * 1000), "too-large"),
    "no question": (CUSTOMER, "POST", Q, {"json": {}}, "invalid-request"),
    "a question that is a number": (CUSTOMER, "POST", Q, query(question=4417), "invalid-request"),
    "an empty question": (CUSTOMER, "POST", Q, query(question=""), "invalid-request"),
    "a question of blanks": (CUSTOMER, "POST", Q, query(question="  \n"), "unusable-question"),
    "a question of 9000 characters": (CUSTOMER, "POST", Q, query(question="问" * 9000), "unusable-question"),
    "a question beyond the model": (CUSTOMER, "POST", Q, query(question="问答" * 3900), "unusable-question"),
    "a password": (CUSTOMER, "POST", Q, query(question=f"我的登录密码是 Xk9#4417 {WORDS}"), "secret-in-question"),
    "100000 tokens": (CUSTOMER, "POST", Q, query(max_length=100_000), "invalid-request"),
    "more tokens than the bank offers": (CUSTOMER, "POST", Q, query(max_length=201), "unusable-question"),
    "no token at all": (CUSTOMER, "POST", Q, query(max_length=0), "invalid-request"),
    "tokens as text": (CUSTOMER, "POST", Q, query(max_length="5"), "invalid-request"),
    "an unknown field": (CUSTOMER, "POST", Q, query(**{WORDS: 1}), "invalid-request"),
    "an unknown session": (CUSTOMER, "POST", Q, query(session_id="no-such-session"), "unknown-session"),
    "an unknown session, as a stream": (CUSTOMER, "POST", Q, query(session_id="x", stream=True), "unknown-session"),
    "a password, as a stream": (
        CUSTOMER,
        "POST",
        Q,
        query(question="PIN 码是 441798", stream=True),
        "secret-in-question",
    ),
    "a session's id that is long": (CUSTOMER, "POST", Q, query(session_id="x" * 200), "invalid-request"),
    "a customer with a line break": (AGENT, "POST", Q, query(customer=f"{WORDS}\n"), "invalid-request"),
    "another model": (CUSTOMER, "POST", CHAT, chat(model=WORDS), "unknown-model"),
    "instructions of the caller": (
        CUSTOMER,
        "POST",
        CHAT,
        chat(messages=[{"role": "system", "content": WORDS}]),
        "invalid-request",
    ),
    "a conversation that ends with an answer": (
        CUSTOMER,
        "POST",
        CHAT,
        chat(messages=[{"role": "assistant", "content": WORDS}]),
        "unusable-question",
    ),
    "two answers at once": (CUSTOMER, "POST", CHAT, chat(n=2), "invalid-request"),
    "a temperature of 3": (CUSTOMER, "POST", CHAT, chat(temperature=3), "invalid-request"),
    "stop words": (CUSTOMER, "POST", CHAT, chat(stop=[WORDS]), "invalid-request"),
    "an empty batch": (AGENT, "POST", BATCH, batch(), "invalid-request"),
    "a batch of 1001": (AGENT, "POST", BATCH, batch(*["a"] * 1001), "invalid-request"),
    "a long question in a batch": (AGENT, "POST", BATCH, batch("问" * 9000), "invalid-request"),
    "a batch without a customer": (AGENT, "POST", BATCH, batch(WORDS, customer=""), "invalid-request"),
    "one job too many": (AGENT, "POST", BATCH, batch(WORDS), "too-many-jobs"),
    "an unknown job": (AGENT, "GET", f"/v1/jobs/{WORDS}", {}, "unknown-job"),
    "an unknown job to cancel": (AGENT, "DELETE", f"/v1/jobs/{WORDS}", {}, "unknown-job"),
    "feedback on nothing": (
        CUSTOMER,
        "POST",
        "/v1/feedback",
        {"json": {"request_id": "r-none", "helpful": True, "comment": WORDS}},
        "unknown-request",
    ),
    "a long comment": (
        CUSTOMER,
        "POST",
        "/v1/feedback",
        {"json": {"request_id": "r-none", "helpful": True, "comment": WORDS * 300}},
        "invalid-request",
    ),
    "a state that is none": (AGENT, "GET", "/v1/feedback", {"params": {"state": WORDS}}, "invalid-request"),
    "a review of nothing": (
        AGENT,
        "POST",
        f"/v1/feedback/{WORDS}/review",
        {"json": {"approve": True, "corrected": WORDS}},
        "unknown-request",
    ),
    "nobody to erase": (OPERATOR, "POST", "/v1/operator/erase", {"json": {"customer": ""}}, "invalid-request"),
    "a step that is none": (OPERATOR, "POST", "/v1/operator/promote", {"json": {}}, "rollout-conflict"),
    "no entries": (AUDITOR, "GET", "/v1/audit/entries", {"params": {"limit": "0"}}, "invalid-request"),
    "a huge number": (AUDITOR, "GET", "/v1/audit/entries", {"params": {"after": "9" * 400}}, "invalid-request"),
    "another path": (CUSTOMER, "GET", f"/v1/{WORDS}", {}, "not-found"),
    "a path with a slash behind": (CUSTOMER, "POST", f"{Q}/", query(), "not-found"),
    "a page outside": (CUSTOMER, "GET", "/pages/..%2Fapp.py", {}, "not-found"),
    "another method": (CUSTOMER, "GET", Q, {}, "method-not-allowed"),
    "a method that is none": (CUSTOMER, WORDS[:6], Q, {}, "method-not-allowed"),
}


@pytest.fixture(scope="module")
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture(scope="module")
def world(portal: BlockingPortal, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("bank")
    with portal.wrap_async_context_manager(a_service(folder, Setting(jobs=JobLimits(open_jobs=1)))) as world:
        portal.call(prepared, world)
        yield world


async def prepared(world: World) -> None:
    """One answer and one job that waits."""
    async with world.client() as client:
        assert (await client.post(Q, json={"question": QUESTION})).status_code == 200
    async with world.client(AGENT) as client:
        assert (await client.post(BATCH, **batch("Why?"))).status_code == 202


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_bad_input_gets_a_problem_document_and_harms_nothing(
    row: tuple[str, str, str, dict[str, Any], str],
    world: World,
    portal: BlockingPortal,
    caplog: pytest.LogCaptureFixture,
) -> None:
    role, method, path, settings, name = row
    caplog.set_level(logging.DEBUG)

    async def send() -> tuple[httpx.Response, httpx.Response]:
        async with world.client(role) as client:
            answer = await client.request(method, path, **settings)
        async with world.client() as client:
            return answer, await client.get("/v1/models")

    answer, after = portal.call(send)
    document = answer.json()
    assert (answer.status_code, document["type"]) == (STATUS[name], f"urn:fedbank:problem:{name}")
    assert answer.headers["content-type"] == "application/problem+json"
    assert document["status"] == answer.status_code
    assert document["instance"] == f"urn:fedbank:request:{answer.headers['x-request-id']}"
    assert after.status_code == 200
    said = answer.text + "".join(record.getMessage() for record in caplog.records if not record.name.startswith("http"))
    assert not [word for word in ("marker", "4417", "机密", "Traceback", ".py") if word in said]
    assert len(world.answers_of()) == 1


def test_after_all_of_it_the_records_and_the_log_are_whole(world: World, portal: BlockingPortal) -> None:
    async def ask() -> int:
        async with world.client() as client:
            return (await client.post(Q, json={"question": "And then?"})).status_code

    before = len(world.answers_of())
    assert portal.call(ask) == 200
    assert len(world.answers_of()) == before + 1
    world.evidence.checkpoint()
    key = SigningKey.derived("serving").public.raw
    assert verify_log(world.folder / "evidence.jsonl", key).entries >= 2
    assert WORDS.encode() not in (world.folder / "evidence.jsonl").read_bytes()


def test_an_error_of_the_service_says_nothing_and_its_log_only_where(
    tmp_path: Path, portal: BlockingPortal, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError(WORDS)

    async def send(**fields: Any) -> httpx.Response:
        async with a_service(tmp_path) as world, world.client() as client:
            monkeypatch.setattr(type(world.desk), "choose", broken)
            return await client.post(Q, **query(**fields))

    for answer in (portal.call(send), portal.call(lambda: send(stream=True))):
        assert (answer.status_code, answer.json()["type"]) == (500, "urn:fedbank:problem:internal")
        assert WORDS not in answer.text + caplog.text
    number = answer.headers["x-request-id"]
    assert next(record.getMessage() for record in caplog.records if number in record.getMessage()).startswith(
        f"request {number} failed: KeyError at test_serving_bad_input.py:"
    )


@pytest.mark.parametrize(
    ("break_it", "name", "retry"),
    [
        ("locked", "records-unavailable", True),
        ("full", "records-unavailable", False),
        ("evidence", "evidence-unavailable", False),
    ],
)
def test_what_cannot_be_kept_is_not_answered(
    break_it: str, name: str, retry: bool, tmp_path: Path, portal: BlockingPortal, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> httpx.Response:
        async with a_service(tmp_path, Setting(patience_s=0.05)) as world, world.client() as client:
            with BREAKS[break_it](world):
                found = await client.post(Q, **query())
                ready = await client.get("/ready")
                assert (ready.status_code, ready.json()["type"]) == (503, "urn:fedbank:problem:not-ready")
            assert (await client.post(Q, **query())).status_code == 200
            return found

    answer = portal.call(run)
    assert (answer.status_code, answer.json()["type"]) == (503, f"urn:fedbank:problem:{name}")
    assert not retry or int(answer.headers["retry-after"]) >= 1
    assert "answer" not in answer.json() and str(tmp_path) not in answer.text
    assert f"{name}. Expected" in caplog.text and WORDS not in caplog.text, "the operator reads what to mend"


def test_json_is_bounded_in_depth_whatever_it_is_made_of() -> None:
    check_plain({"a": [{"b": "c"}]}, 3)
    for value in ({"a": [{"b": ["c"]}]}, [[[[]]]], {"a": "\ud800"}):
        with pytest.raises(ValueError, match=r"deep|surrogates"):
            check_plain(value, 2)
    assert HttpLimits().question_bytes == 65_536


class _Locked:
    """Another process writes and does not end."""

    def __init__(self, world: World) -> None:
        self._connection = sqlite3.connect(world.folder / "records.sqlite", isolation_level=None)

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, *_: object) -> None:
        self._connection.close()


class _Full:
    """The disk has no more room for the store."""

    def __init__(self, world: World) -> None:
        self._engine, self._conversations = world.records._database._engine, world.service.conversations

    def __enter__(self) -> None:
        with self._engine.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        self._limit(f"PRAGMA max_page_count = {pages}")
        with contextlib.suppress(RecordsError):
            for number in range(1000):
                self._conversations.add(exchange(f"filler-{number}", "C-9", question="?", answer="!"))

    def __exit__(self, *_: object) -> None:
        self._limit("PRAGMA max_page_count = 1073741823")

    def _limit(self, words: str) -> None:
        self._engine.dispose()

        def limit(connection: Any, _: Any) -> None:
            connection.execute(words)

        event.listen(self._engine, "connect", limit)


class _Evidence:
    """The log was cut by somebody."""

    def __init__(self, world: World) -> None:
        self._path = world.folder / "evidence.jsonl"

    def __enter__(self) -> None:
        self._content = self._path.read_bytes()
        os.truncate(self._path, len(self._content) - 10)

    def __exit__(self, *_: object) -> None:
        with self._path.open("ab") as file:
            file.write(self._content[-10:])


BREAKS: dict[str, Callable[[World], Any]] = {"locked": _Locked, "full": _Full, "evidence": _Evidence}
