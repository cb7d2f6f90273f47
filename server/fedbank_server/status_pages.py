"""The consortium's state on the private listener, for the operator: a page that keeps itself up to date, the same as
JSON, and metrics for Prometheus. Read-only, and only for whoever has the operator's token.
"""

import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime
from http.cookies import CookieError, SimpleCookie
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs

from fedbank.errors import FedBankError
from fedbank_server.metrics import exposition
from fedbank_server.overview import Overview

_COOKIE = "fedbank_operator"
_PAGE = (files("fedbank_server") / "status.html").read_bytes()
_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
        b"frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
]


class StatusPages:
    """An ASGI application: ``/``, ``/status.json`` and ``/metrics``.

    The token comes as ``Authorization: Bearer``, or once as ``/?token=...``, which a browser trades for a cookie.
    """

    def __init__(self, read: Callable[[datetime], Overview], token: str) -> None:
        self._read = read
        self._token = token.encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        path = scope["path"]
        if scope["method"] not in ("GET", "HEAD"):
            await _answer(send, 405, b"Only GET.\n", "text/plain")
        elif path == "/" and self._is_token(_query_token(scope)):
            cookie = f"{_COOKIE}={_query_token(scope).decode()}; HttpOnly; Secure; SameSite=Strict; Path=/"
            await _answer(send, 303, b"", "text/plain", [(b"location", b"/"), (b"set-cookie", cookie.encode())])
        elif not self._is_token(_shown_token(scope)):
            hint = b"Expected the operator's token. Open the address that fedbank server status --url prints.\n"
            await _answer(send, 401, hint, "text/plain")
        elif path == "/":
            await _answer(send, 200, _PAGE, "text/html; charset=utf-8")
        elif path in ("/status.json", "/metrics"):
            await self._answer_state(send, path)
        else:
            await _answer(send, 404, b"Not found.\n", "text/plain")

    async def _answer_state(self, send: Any, path: str) -> None:
        try:
            overview = self._read(datetime.now(UTC))
        except (FedBankError, OSError) as error:
            await _answer(send, 503, f"{error}\n".encode(), "text/plain; charset=utf-8")
            return
        if path == "/metrics":
            body, kind = exposition(overview)
            await _answer(send, 200, body, kind)
        else:
            await _answer(send, 200, json.dumps(overview.as_json()).encode(), "application/json")

    def _is_token(self, given: bytes) -> bool:
        return hmac.compare_digest(given, self._token)


def _query_token(scope: Any) -> bytes:
    query: str = scope["query_string"][:1000].decode("latin-1")
    return parse_qs(query).get("token", [""])[0].encode("latin-1", "replace")


def _shown_token(scope: Any) -> bytes:
    headers: dict[bytes, bytes] = dict(scope["headers"])
    authorization = headers.get(b"authorization", b"")
    if authorization.startswith(b"Bearer "):
        return authorization.removeprefix(b"Bearer ")
    try:
        cookie = SimpleCookie(headers.get(b"cookie", b"")[:4000].decode("latin-1")).get(_COOKIE)
    except CookieError:
        cookie = None
    return str(cookie.value).encode("latin-1", "replace") if cookie is not None else b""


async def _answer(
    send: Any, status: int, body: bytes, kind: str, more: list[tuple[bytes, bytes]] | None = None
) -> None:
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode()), *_HEADERS, *(more or [])]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
