"""Answers on their way to a client that may leave: one task owns each, and ends when its reader does."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from fedbank.serving.answering import Answered, Delta, Started
from fedbank_client.serving.edge import REQUEST_ID
from fedbank_client.serving.problems import LATE, RefusedError
from fedbank_client.serving.telling import told

T = TypeVar("T")
Event = Started | Delta | Answered
MEDIA_TYPE = "text/event-stream"


def described(example: str, *events: str) -> dict[str, Any]:
    """A stream in an OpenAPI 3.1 description, whose schema is that of each event; ``events``: their names."""
    properties = {"event": {"type": "string", "enum": list(events)}} if events else {}
    schema = {
        "type": "object",
        "required": [*properties, "data"],
        "properties": {**properties, "data": {"type": "string"}},
    }
    return {MEDIA_TYPE: {"schema": schema, "example": example}}


class Flow:
    """The events of one answer, pulled by a task of their own from the first to the last.

    An asynchronous generator is not passed from task to task: what it holds (timeouts, locks) belongs to one.
    """

    def __init__(self, events: AsyncGenerator[Event]) -> None:
        self._inbox: asyncio.Queue[Event | BaseException | None] = asyncio.Queue()
        self._task = asyncio.create_task(self._pull(events))

    async def next(self) -> Event | None:
        """The next event, ``None`` after the last; whatever the answer raised."""
        found = await self._inbox.get()
        if isinstance(found, BaseException):
            raise found
        return found

    async def close(self) -> None:
        """Cancel what is left; its slot in the engine is free when this returns."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _pull(self, events: AsyncGenerator[Event]) -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    self._inbox.put_nowait(event)
            self._inbox.put_nowait(None)
        except Exception as error:  # noqa: BLE001 - it is raised where the events are read
            self._inbox.put_nowait(error)


class EventStream(StreamingResponse):
    """Server-sent events; ``close`` is called however the response ends."""

    media_type = MEDIA_TYPE

    def __init__(self, frames: AsyncIterator[str], close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        super().__init__(frames, headers={"X-Accel-Buffering": "no"})
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it (ASGI)."""
        try:
            with contextlib.suppress(ClientDisconnect):
                await super().__call__(scope, receive, send)
        finally:
            await self._close()


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What ``work`` gives, as long as the client is there: it is cancelled when the client leaves.

    Raises:
        ClientDisconnect: the client left.
    """
    task, watch = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait([task, watch], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for one in (task, watch):
            one.cancel()
        await asyncio.wait([task, watch])


async def opened(request: Request, flow: Flow) -> list[Event]:
    """The events up to the first text: what fails before it has a status of its own."""
    events: list[Event] = []
    try:
        while not events or isinstance(events[-1], Started):
            event = await unless_gone(request, flow.next())
            if event is None:
                break
            events.append(event)
    except BaseException:
        await flow.close()
        raise
    return events


async def following(flow: Flow, events: list[Event], deadline: float) -> AsyncGenerator[Event]:
    """``events``, and all that follow until the loop's time is ``deadline``; ``RefusedError`` if it is too late."""
    for event in events:
        yield event
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                found = await flow.next()
        except TimeoutError:
            raise RefusedError(LATE) from None
        if found is None:
            return
        yield found


def problem_in_stream(request: Request, error: Exception) -> dict[str, Any]:
    """The problem document of what went wrong after the status was sent."""
    return told(request, error).document(getattr(request.state, REQUEST_ID))


def frame(data: Any, event: str = "") -> str:
    """One event (WHATWG HTML, section 9.2.6); JSON has no line breaks."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def _gone(request: Request) -> None:
    """Return when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
