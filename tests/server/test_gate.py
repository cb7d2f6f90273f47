"""The gate at moments that no attacker can hit on purpose: a bank is revoked in the middle of a request."""

import asyncio
from base64 import b64encode
from collections.abc import Callable, MutableMapping
from typing import Any

import pytest

from fedbank_server.doorbell import Doorbell
from fedbank_server.flower_hooks import FLEET_HTTP_PUBLIC_KEY_HEADER
from fedbank_server.gate import CERTIFICATE, Admitted, PublicGate
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
