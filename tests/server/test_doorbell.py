"""A message wakes the bank that it is for and no other: waking all for each would cost the square of their number."""

import asyncio
from base64 import b64encode
from collections import Counter
from collections.abc import Callable
from typing import Any

from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.node_pb2 import Node

from fedbank_server.doorbell import Doorbell
from fedbank_server.flower_hooks import FLEET_HTTP_PUBLIC_KEY_HEADER
from fedbank_server.gate import CERTIFICATE, Admitted, PrivateGate, PublicGate
from fedbank_server.limits import Limits

NUMBERS = {f"bank-{number}": 2**63 + number for number in range(5)}
TOKEN = "an-operators-token-of-a-test"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


async def call(gate: Any, path: str, headers: dict[str, str], body: bytes = b"", certificate: str = "") -> int:
    """The status of one request."""
    answer: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(event: Any) -> None:
        answer.append(event)

    named = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": path, "headers": named, "extensions": {CERTIFICATE: certificate}}
    await gate(scope, receive, send)
    return int(answer[0]["status"])


def pull(gate: PublicGate, bank: str) -> asyncio.Task[int]:
    """What a bank does that waits for messages."""
    key = b64encode(bank.encode()).decode()
    body = PullMessagesRequest(node=Node(node_id=NUMBERS[bank])).SerializeToString()
    headers = {FLEET_HTTP_PUBLIC_KEY_HEADER: key, "fedbank-wait": "20"}
    return asyncio.create_task(call(gate, "/v1/fleet/pull-messages", headers, body, bank))


def test_a_push_wakes_the_bank_that_it_is_for() -> None:
    asked: Counter[str] = Counter()

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        asked[scope["path"]] += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def story() -> tuple[dict[str, bool], int]:
        bell = Doorbell()
        public = PublicGate(behind, Limits(), bell, Doorbell(), lambda *refusal: None)
        public.members = {bank: Admitted(bank, bank.encode()) for bank in NUMBERS}
        private = PrivateGate(behind, TOKEN, bell, Doorbell())
        for bank in NUMBERS:
            await pull(public, bank)  # the first one of a listener returns at once
        waiting = {bank: pull(public, bank) for bank in NUMBERS}
        await until(lambda: len(bell._waiting) == len(NUMBERS))
        headers = {"authorization": f"Bearer {TOKEN}", "fedbank-for": str(NUMBERS["bank-3"])}
        for route in ("push-messages", "push-object", "push-object"):
            assert await call(private, f"/v1/runtime/{route}", headers) == 200
        await until(waiting["bank-3"].done)
        woken = {bank: task.done() for bank, task in waiting.items()}
        del headers["fedbank-for"]
        assert await call(private, "/v1/runtime/push-messages", headers) == 200
        assert set(await asyncio.gather(*waiting.values())) == {200}
        return woken, asked["/v1/fleet/pull-messages"]

    woken, pulls = asyncio.run(story())
    assert woken == {bank: bank == "bank-3" for bank in NUMBERS}
    assert pulls == 2 * len(NUMBERS), "and whoever is named by nobody is woken with all others"


def test_a_bank_that_was_away_when_it_rang_for_it_does_not_wait() -> None:
    async def story() -> bool:
        bell = Doorbell()
        await bell.wait("bank-1", 0, "1")
        await bell.wait("bank-2", 0, "2")
        bell.ring("1")
        await asyncio.wait_for(bell.wait("bank-1", 60, "1"), 20)
        try:
            await asyncio.wait_for(bell.wait("bank-2", 60, "2"), 0.2)
        except TimeoutError:
            return True
        return False

    assert asyncio.run(story()), "another bank's ring is not its own"


def test_a_ring_for_a_number_that_nobody_has_is_for_all() -> None:
    async def story() -> None:
        bell = Doorbell()
        await bell.wait("bank-1", 0, "1")
        bell.ring("7")
        await asyncio.wait_for(bell.wait("bank-1", 60, "1"), 20)

    asyncio.run(story())
