"""However many banks send their updates at once, the SuperLink holds one of them in memory at a time."""

import asyncio
import tracemalloc
from base64 import b64encode
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from fedbank_server.bodies import Objects
from fedbank_server.doorbell import Doorbell
from fedbank_server.flower_hooks import FLEET_HTTP_PUBLIC_KEY_HEADER, PushObjectRequest
from fedbank_server.gate import CERTIFICATE, Admitted, PublicGate
from fedbank_server.limits import MIB, Limits

BANKS, SIZE = 20, 4 * MIB
Event = MutableMapping[str, Any]


def test_updates_that_arrive_together_are_stored_one_after_another_and_wait_on_disk(tmp_path: Path) -> None:
    waiting: list[int] = []
    held: list[int] = []
    bodies = 0

    async def flower(scope: Event, receive: Any, send: Any) -> None:
        nonlocal bodies
        body = (await receive())["body"]
        if bodies == 0:  # the first one takes until all others have arrived
            while len(waiting) < BANKS:
                await asyncio.sleep(0.001)
            held.append(tracemalloc.get_traced_memory()[0])
        bodies += len(body) > SIZE
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def story() -> list[int]:
        gate = PublicGate(flower, Limits(), Doorbell(), Doorbell(), lambda *refusal: None, Objects(tmp_path))
        gate.members = {f"certificate {number}": Admitted(f"bank{number}", b"its key") for number in range(BANKS)}
        return await asyncio.gather(*(push(gate, f"certificate {number}", waiting) for number in range(BANKS)))

    tracemalloc.start()
    try:
        assert asyncio.run(story()) == [200] * BANKS
    finally:
        tracemalloc.stop()
    assert bodies == BANKS
    assert held[0] < 4 * SIZE  # of the 20 that had arrived
    assert not list(tmp_path.iterdir())


async def push(gate: PublicGate, certificate: str, arrived: list[int]) -> int:
    """One object of ``SIZE`` bytes in pieces, made while it is sent; the status that it got."""
    statuses: list[int] = []
    content = b"ConfigRecord  %d\0" % SIZE + bytes(SIZE)
    body = PushObjectRequest(object_content=content).SerializeToString()
    pieces = [body[at : at + MIB] for at in range(0, len(body), MIB)]
    del content, body

    async def receive() -> Event:
        await asyncio.sleep(0)
        piece = pieces.pop(0)
        if not pieces:
            arrived.append(1)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(event: Event) -> None:
        if event["type"] == "http.response.start":
            statuses.append(event["status"])

    headers = [(FLEET_HTTP_PUBLIC_KEY_HEADER.encode(), b64encode(b"its key"))]
    scope = {"type": "http", "method": "POST", "path": "/v1/fleet/push-object", "headers": headers}
    await gate(scope | {"extensions": {CERTIFICATE: certificate}}, receive, send)
    return statuses[0]
