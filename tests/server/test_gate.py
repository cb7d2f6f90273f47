"""The gate at moments that nobody can hit on purpose: in the middle of a request, a bank is revoked or reports anew."""

import asyncio
from base64 import b64encode
from collections.abc import Callable, MutableMapping
from typing import Any

import pytest

from fedbank_server.doorbell import Doorbell
from fedbank_server.flower_hooks import FLEET_HTTP_PUBLIC_KEY_HEADER
from fedbank_server.gate import CERTIFICATE, WAIT, Admitted, PublicGate
from fedbank_server.limits import Limits

MEMBER = {"its certificate": Admitted("bank1", b"its key")}
Event = MutableMapping[str, Any]


def test_a_member_gets_the_answer() -> None:
    asked, answer = request(while_it_sends=lambda gate: None, while_flower_works=lambda gate: None)
    assert asked
    assert [event.get("status", event.get("body")) for event in answer] == [200, b"a message for the bank"]


@pytest.mark.fault(17)
def test_a_bank_that_is_revoked_while_its_body_arrives_does_not_reach_flower() -> None:
    asked, answer = request(while_it_sends=revoke, while_flower_works=lambda gate: None)
    assert not asked
    assert [event.get("status") for event in answer] == [403, None]


@pytest.mark.fault(17)
def test_a_bank_that_is_revoked_while_flower_works_is_sent_nothing_of_the_answer() -> None:
    asked, answer = request(while_it_sends=lambda gate: None, while_flower_works=revoke)
    assert asked
    assert [event.get("status") for event in answer] == [403, None]
    assert b"a message for the bank" not in answer[1]["body"]


def revoke(gate: PublicGate) -> None:
    gate.members = {}


def request(
    while_it_sends: Callable[[PublicGate], None], while_flower_works: Callable[[PublicGate], None]
) -> tuple[bool, list[Event]]:
    """One activation by bank1; whether it reached the application behind the gate, and what bank1 was sent."""
    asked, answer = False, []

    async def behind(scope: Event, receive: Any, send: Any) -> None:
        nonlocal asked
        asked = True
        while_flower_works(gate)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a message for the bank"})

    async def receive() -> Event:
        while_it_sends(gate)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(event: Event) -> None:
        answer.append(event)

    async def serve() -> None:
        await gate(
            {
                "type": "http",
                "method": "POST",
                "path": "/v1/fleet/activate-node",
                "headers": [(FLEET_HTTP_PUBLIC_KEY_HEADER.encode(), b64encode(b"its key"))],
                "extensions": {CERTIFICATE: "its certificate"},
            },
            receive,
            send,
        )

    gate = PublicGate(behind, Limits(), Doorbell(), Doorbell(), lambda *refusal: None)
    gate.members = MEMBER
    asyncio.run(serve())
    return asked, answer


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.fault(10)
def test_a_pull_that_waits_takes_no_message_once_its_bank_has_reported_anew() -> None:
    """Its connection is gone without a word: what Flower would hand out is handed to the pull of the new report."""
    reached, bell = list[str](), Doorbell()

    async def behind(scope: Event, receive: Any, send: Any) -> None:
        reached.append(scope["path"].rpartition("/")[2])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def story() -> tuple[int, int]:
        gate = PublicGate(behind, Limits(), bell, Doorbell(), lambda *refusal: None)
        gate.members = MEMBER
        assert await call(gate, "pull-messages") == 200
        forgotten = asyncio.create_task(call(gate, "pull-messages", wait=b"20"))
        await until(lambda: bool(bell._waiting))
        assert await call(gate, "activate-node") == 200
        bell.ring()
        return await forgotten, await call(gate, "pull-messages")

    assert asyncio.run(story()) == (409, 200)
    assert reached == ["pull-messages", "activate-node", "pull-messages"]


@pytest.mark.fault(10)
def test_a_report_waits_for_a_pull_that_flower_works_at() -> None:
    """What that pull is handed was sent before the report, by Flower's clock: the coordinator asks for it again."""
    order, pulled = list[str](), asyncio.Event()

    async def behind(scope: Event, receive: Any, send: Any) -> None:
        route = scope["path"].rpartition("/")[2]
        order.append(route)
        if route == "pull-messages":
            await pulled.wait()
            order.append("handed out")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def story() -> None:
        gate = PublicGate(behind, Limits(), Doorbell(), Doorbell(), lambda *refusal: None)
        gate.members = MEMBER
        pull = asyncio.create_task(call(gate, "pull-messages"))
        await until(lambda: bool(order))
        report = asyncio.create_task(call(gate, "activate-node"))
        await until(lambda: gate._at_once["bank1"] == 2)
        for _ in range(20):
            await asyncio.sleep(0)
        pulled.set()
        assert await asyncio.gather(pull, report) == [200, 200]

    asyncio.run(story())
    assert order == ["pull-messages", "handed out", "activate-node"]


async def call(gate: PublicGate, route: str, wait: bytes = b"0") -> int:
    """One request by bank1; the status that it got."""
    statuses: list[int] = []

    async def receive() -> Event:
        return {"type": "http.request", "body": b""}

    async def send(event: Event) -> None:
        if event["type"] == "http.response.start":
            statuses.append(event["status"])

    headers = [(FLEET_HTTP_PUBLIC_KEY_HEADER.encode(), b64encode(b"its key")), (WAIT, wait)]
    scope = {"type": "http", "method": "POST", "path": f"/v1/fleet/{route}", "headers": headers}
    await gate(scope | {"extensions": {CERTIFICATE: "its certificate"}}, receive, send)
    return statuses[0]
