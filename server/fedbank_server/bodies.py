"""Bodies of requests and answers: they wait on disk, and one object of a message at a time is in memory.

Flower holds an object several times over while it stores it or hands it out. So what arrives waits for its turn in a
file, and what is handed out goes into one before it leaves: neither many banks nor one on a slow line make the
SuperLink larger, and none holds up the others.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any

from fedbank_server.memory import forget

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Body = SpooledTemporaryFile[bytes]

_IN_MEMORY_BYTES = 1024 * 1024
"""Of a body that waits; a larger one waits in a file without a name."""
_PIECE_BYTES = 256 * 1024


class RefusedError(Exception):
    """A request that is answered with ``status`` and the reason, and goes no further."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Objects:
    """Objects of messages, one at a time, whoever sends or fetches it. ``spool``: a folder (``None``: the system's)."""

    def __init__(self, spool: Path | None = None) -> None:
        self._spool = None if spool is None else str(spool)
        self._turn = asyncio.Lock()

    def room(self) -> Body:
        """For one body, until it is closed."""
        return SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES, dir=self._spool)

    def one_at_a_time(self, app: App, body: Body, check: Callable[[bytes], None]) -> App:
        """``app`` for a request with ``body``, which ``check`` may refuse; its answer leaves when the turn is over."""

        async def in_turn(scope: Scope, receive: Receive, send: Send) -> None:
            started: list[MutableMapping[str, Any]] = []

            async def keep(event: MutableMapping[str, Any]) -> None:
                if event["type"] == "http.response.start":
                    started.append(event)
                else:
                    _write(answer, event.get("body", b""))

            with self.room() as answer:
                async with self._turn:
                    await with_body(app, body, check)(scope, receive, keep)
                    forget(max(body.tell(), answer.tell()))
                for event in started:
                    await send(event)
                    await _send_body(answer, send)

        return in_turn


async def read_body(
    target: Body, headers: Mapping[bytes, bytes], receive: Receive, cap: float, timeout_s: float | None
) -> None:
    """Write the whole body to ``target``, never more than ``cap`` bytes of it; the announced length is not believed.

    Raises:
        RefusedError: it is larger, later or compressed, or there is no room for it.
    """
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise RefusedError(415, "Compressed bodies are not accepted.")
    if (announced := headers.get(b"content-length", b"0")).isdigit() and int(announced) > cap:
        raise RefusedError(413, f"At most {cap} bytes.")
    size, more = 0, True
    try:
        async with asyncio.timeout(timeout_s):
            while more:
                event = await receive()
                if event["type"] == "http.disconnect":
                    raise RefusedError(400, "The body ended early.")
                chunk = event.get("body", b"")
                size += len(chunk)
                more = event.get("more_body", False)
                if size > cap:
                    raise RefusedError(413, f"At most {cap} bytes.")
                _write(target, chunk)
    except TimeoutError:
        raise RefusedError(408, f"The body took more than {timeout_s:g} s.") from None


def whole(body: Body) -> bytes:
    """All of it, in memory."""
    body.seek(0)
    return body.read()


def with_body(app: App, body: Body, check: Callable[[bytes], None]) -> App:
    """``app`` for a request with ``body``, which ``check`` may refuse; no longer in memory than ``app`` holds it."""

    async def asked(scope: Scope, receive: Receive, send: Send) -> None:
        content = [whole(body)]
        check(content[0])

        async def receive_it() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": content.pop(), "more_body": False} if content else await receive()

        await app(scope, receive_it, send)

    return asked


def _write(target: Body, content: bytes) -> None:
    try:
        target.write(content)
    except OSError as error:
        raise RefusedError(503, f"There is no room for it: {error.strerror}.") from None


async def _send_body(body: Body, send: Send) -> None:
    """In pieces, each of which waits until the one before has left: as a whole it would be encrypted at once."""
    body.seek(0)
    while piece := body.read(_PIECE_BYTES):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
