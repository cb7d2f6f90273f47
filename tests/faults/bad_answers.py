"""A coordinator's listener that answers wrongly now and then: what a proxy, a limit or an overload in between does.

It ends TLS with the coordinator's own certificate and goes on with the bank's, so that both sides see who they expect.
"""

import contextlib
import ssl
import threading
from collections.abc import Callable
from http.client import HTTPException, HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from consortium import Consortium

from fedbank_server.flower_hooks import pinned_context

_NOT_PASSED = frozenset({"transfer-encoding", "connection", "date"})


class BadAnswers:
    """Stands before ``port``; ``bank``: before the public listener, in its name. Use as a context manager.

    ``answer(status, route, times)`` spoils the next ``times`` calls of a route; with ``after`` the coordinator has done
    what it was asked by then, and only its answer is lost.
    """

    def __init__(self, consortium: Consortium, port: int, bank: str | None = None) -> None:
        self._spoiled: dict[str, tuple[int, int, bool]] = {}
        self._lock = threading.Lock()
        self.answered: list[tuple[str, int]] = []
        """Route and status of every spoiled answer."""
        self.count = 0
        upstream = pinned_context(str(consortium.server.certificate))
        if bank is not None:
            upstream.load_cert_chain(consortium.banks[bank].certificate, consortium.banks[bank].key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(consortium.server.certificate, consortium.server.key)
        self._server = _Server(lambda: HTTPSConnection("127.0.0.1", port, context=upstream), context, self)
        self.port = self._server.server_port

    def __enter__(self) -> "BadAnswers":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, status: int, route: str, times: int = 1, *, after: bool = False) -> None:
        """Spoil the next answers to calls whose path ends with ``route``."""
        with self._lock:
            self._spoiled[route] = (status, times, after)

    def spoil(self, path: str) -> tuple[int, bool] | None:
        """What to answer to this call instead, and whether it is passed on first."""
        route = path.rpartition("/")[2]
        with self._lock:
            status, times, after = self._spoiled.get(route, (0, 0, False))
            if times == 0:
                return None
            self._spoiled[route] = (status, times - 1, after)
            self.answered.append((route, status))
            self.count += 1
            return status, after


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, connect: Callable[[], HTTPSConnection], context: ssl.SSLContext, faults: BadAnswers) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.connect, self.faults, self._context = connect, faults, context

    def finish_request(self, request: Any, client_address: Any) -> None:
        """TLS on the connection's own thread."""
        with contextlib.suppress(OSError):
            super().finish_request(self._context.wrap_socket(request, server_side=True), client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    _far: HTTPSConnection | None = None

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        spoiled = self.server.faults.spoil(self.path)
        if spoiled is None:
            status, headers, content = self._pass_on(body)
        else:
            if spoiled[1]:
                self._pass_on(body)
            status, headers, content = spoiled[0], {}, f"spoiled {self.server.faults.count} times".encode()
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in {*_NOT_PASSED, "content-length"}:
                self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *values: object) -> None:
        """Nothing."""

    def finish(self) -> None:
        if self._far is not None:
            self._far.close()
        super().finish()

    def _pass_on(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if self._far is None:
            self._far = self.server.connect()
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _NOT_PASSED}
        try:
            self._far.request("POST", self.path, body, headers)
            answer = self._far.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        except (OSError, HTTPException):
            self._far.close()
            return 502, {}, b"nobody behind it"
