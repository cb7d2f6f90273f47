"""The service's listener: uvicorn with bounds on connections, headers and patience; no HTTP is a problem too."""

import contextlib
import json
import ssl
from collections.abc import Iterator

import h11
import uvicorn
from fastapi import FastAPI

from fedbank.prompt_http import PromptProtocol
from fedbank_client.serving.limits import HttpLimits
from fedbank_client.serving.problems import MALFORMED, MEDIA_TYPE, Problem

_BACKLOG = 1024
_PACE_S = 0.01
"""Between two requests of a connection that did not wait for the answer; no client needs that."""
_BROKEN = Problem(MALFORMED, "Expected a request of HTTP/1.1 with short headers, got something else.", {}, {})


class _ServiceProtocol(PromptProtocol):
    """What is no HTTP gets a problem document too, and whoever sends requests in stock waits between their answers."""

    _is_pacing = _is_between = False

    def on_response_complete(self) -> None:
        """See uvicorn's."""
        self._is_between = True
        super().on_response_complete()
        self._is_between = False

    def handle_events(self) -> None:
        """See uvicorn's: one connection's stock of requests would be answered before everybody else's."""
        if self._is_between and self.conn.trailing_data[0]:
            self._is_pacing = True
            self.flow.pause_reading()
            self.loop.call_later(_PACE_S, self._go_on)
        elif not self._is_pacing:
            super().handle_events()

    def _go_on(self) -> None:
        self._is_pacing = False
        self.flow.resume_reading()
        if not self.transport.is_closing():
            self.handle_events()

    def send_400_response(self, msg: str) -> None:
        """Answer and hang up; ``msg`` is uvicorn's."""
        content = json.dumps(_BROKEN.document("none")).encode()
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(content)).encode()),
            (b"connection", b"close"),
        ]
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=content),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event))
        self.transport.close()


class _Server(uvicorn.Server):
    """A server that leaves signals to whoever runs it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing."""
        yield


def make_server(
    app: FastAPI, limits: HttpLimits, tls: ssl.SSLContext | None = None, *, host: str = "127.0.0.1", port: int = 0
) -> uvicorn.Server:
    """A server of ``app``, to be run by ``serve()``; at its end answers that run have ``limits.shutdown_s`` seconds.

    ``tls``: with the certificate, and the channels' authority where they need one; ``None``: plain HTTP. ``host`` and
    ``port`` are not used where ``serve`` is given sockets.
    """
    settings = {"header_timeout_s": limits.header_s, "most_connections": limits.connections}
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=type("ServiceProtocol", (_ServiceProtocol,), settings),
        ws="none",
        lifespan="off",
        backlog=_BACKLOG,
        access_log=False,  # the application writes its own, without what customers send
        log_level="warning",
        log_config=None,
        server_header=False,
        proxy_headers=False,  # nobody may say that they come from this machine
        timeout_keep_alive=limits.keep_alive_s,
        timeout_graceful_shutdown=limits.shutdown_s,
        h11_max_incomplete_event_size=limits.header_bytes,
        ssl_context_factory=(lambda *_: tls) if tls is not None else None,
    )
    return _Server(config)
