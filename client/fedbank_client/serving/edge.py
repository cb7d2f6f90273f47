"""Around every request: a number, headers, a bound on time and on how many there are, and one line in the access log.

Nothing that goes wrong inside passes it: whoever asked gets a problem document, and the log the kind and place of the
error, never its words, which may be a customer's.
"""

import asyncio
import json
import logging
import secrets
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from fedbank_client.serving.limits import HttpLimits
from fedbank_client.serving.problems import LATE, MALFORMED, MEDIA_TYPE, OVERLOADED, STOPPING, RefusedError, problem_of

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
LOG = logging.getLogger("fedbank.serving")
ACCESS = logging.getLogger("fedbank.serving.access")
REQUEST_ID = "fedbank_request_id"
"""Where a request's number is: ``request.state``."""
AT_END = "fedbank_at_end"
"""What is called when the request is over, its stream included: ``request.state``."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_VERSIONS = frozenset({"1.0", "1.1"})
_ALIVE = "/health"
"""Answered however much there is to do: whoever asks it would start a service again that is only busy."""
_GRACE_S = 5.0
"""After the deadline of an answer, which a stream tells itself."""
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


@dataclass(slots=True)
class _Exchange:
    """One request as it is seen from here."""

    scope: Scope
    number: str
    began: float = field(default_factory=time.monotonic)
    status: int = 0
    body_read: bool = False

    def headers(self, given: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """``given`` and those of every answer."""
        headers = list(given)
        there = {name.lower() for name, _ in headers}
        added = {**_HEADERS, "x-request-id": self.number}
        if self.scope["path"].startswith("/v1"):
            added["cache-control"] = "no-store"
        if self.scope.get("scheme") == "https":
            added["strict-transport-security"] = "max-age=31536000"
        if not self.body_read and _announces_body(self.scope):  # an unread body would be read for as long as it comes
            added["connection"] = "close"
        return headers + [(n.encode(), v.encode()) for n, v in added.items() if n.encode() not in there]


class Edge:
    """ASGI middleware; see the module."""

    def __init__(self, app: App, limits: HttpLimits) -> None:
        self._app, self._limits, self._running = app, limits, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, secrets.token_hex(8))
        scope.setdefault("state", {})[REQUEST_ID] = exchange.number

        async def received() -> Message:
            message = await receive()
            exchange.body_read |= message["type"] == "http.request" and not message.get("more_body", False)
            return message

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message = {**message, "headers": exchange.headers(message.get("headers", ()))}
            await send(message)

        try:
            await self._bounded(exchange, received, sent)
        finally:
            scope["state"].pop(AT_END, lambda: None)()
            self._log(exchange)

    async def _bounded(self, exchange: _Exchange, receive: Receive, send: Send) -> None:
        self._running += 1
        try:
            if self._running > self._limits.at_once and exchange.scope["path"] != _ALIVE:
                raise RefusedError(OVERLOADED, retry_after_s=1.0)
            check_framing(exchange.scope, self._limits.header_bytes)
            async with asyncio.timeout(self._limits.request_s + _GRACE_S):
                await self._app(exchange.scope, receive, send)
        except TimeoutError as error:
            await self._fail(exchange, send, RefusedError(LATE), error)
        except RefusedError as error:
            await self._fail(exchange, send, error, error)
        except asyncio.CancelledError as error:
            await self._fail(exchange, send, RefusedError(STOPPING, retry_after_s=5.0), error)
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, its text must not leave
            LOG.error("request %s failed: %s", exchange.number, where(error))
            await self._fail(exchange, send, error, error)
        finally:
            self._running -= 1

    async def _fail(self, exchange: _Exchange, send: Send, told: Exception, error: BaseException) -> None:
        """A problem document, if nothing was answered yet; else the answer stays cut, which its reader notices."""
        if exchange.status:
            LOG.warning("request %s was cut: %s", exchange.number, type(error).__name__)
            return
        problem = problem_of(told)
        content = json.dumps(problem.document(exchange.number)).encode()
        headers = {"content-type": MEDIA_TYPE, "content-length": str(len(content)), **problem.headers}
        named = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": problem.kind.status, "headers": named})
        await send({"type": "http.response.body", "body": content})

    def _log(self, exchange: _Exchange) -> None:
        scope, took_ms = exchange.scope, 1000 * (time.monotonic() - exchange.began)
        route = getattr(scope.get("route"), "path", "-")  # the template: a path may hold anything
        method = scope["method"] if scope["method"] in _METHODS else "-"
        ACCESS.info("%s %s %d %.1f ms %s", method, route, exchange.status or 499, took_ms, exchange.number)


def check_framing(scope: Scope, most_bytes: int) -> None:
    """``RefusedError`` for headers that two readers could understand differently, or that are too long.

    Two lengths of one body (RFC 9112, section 6.1) are how a request is hidden in another's body from a proxy. The
    listener's own bound on headers holds for those that arrive in pieces only.
    """
    names = [name for name, _ in scope["headers"]]
    framed = (b"transfer-encoding" in names) + names.count(b"content-length")
    size = len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"")
    size += sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    if framed > 1 or size > most_bytes or scope.get("http_version", "1.1") not in _VERSIONS:
        raise RefusedError(MALFORMED, "Expected HTTP/1.1 with short headers and one length of the body, got another.")


def where(error: BaseException) -> str:
    """The kind of an error and the line it comes from, without its words."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else ""
    return type(error).__name__ + place


def _announces_body(scope: Scope) -> bool:
    headers = dict(scope["headers"])
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
