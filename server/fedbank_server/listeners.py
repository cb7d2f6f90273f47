"""The coordinator's two HTTPS listeners: one for banks (mutual TLS), one for the operator (loopback)."""

import asyncio
import contextlib
import hashlib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from fedbank.certificates import read_private
from fedbank_server.bodies import App
from fedbank_server.gate import CERTIFICATE
from fedbank_server.limits import Limits

_KEEP_ALIVE_S = 75


@dataclass(frozen=True, slots=True)
class Identity:
    """The coordinator's certificate, its key and the consortium's CA: paths of PEM files."""

    certificate: Path
    key: Path
    ca: Path
    passphrase: str | None = None


class QuietServer(uvicorn.Server):
    """A server that leaves signals to whoever runs several of them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing."""
        yield


class _BankProtocol(H11Protocol):
    """HTTP/1.1 that tells the application whose certificate the peer has, and has no patience with slow headers."""

    limits: Limits
    certificate = ""
    _heard_at = 0.0
    _header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        der = tls.getpeercert(binary_form=True) if tls is not None else None
        self.certificate = hashlib.sha256(der).hexdigest() if der else ""
        self._heard_at = self.loop.time()
        if not self._has_room():
            transport.abort()
            return
        app, extensions = self.app, {CERTIFICATE: self.certificate}

        async def with_certificate(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "extensions": extensions}, receive, send)

        self.app = with_certificate
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        self._heard_at = self.loop.time()
        super().data_received(data)
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _has_room(self) -> bool:
        """Whether this connection may stay: the one that was silent longest, with no request in work, gives way to it.

        A bank behind a line that lost its connections without a word comes back with new ones, while the lost ones
        look alive from here until they time out; they must not keep it out.
        """
        others = [other for other in self.connections if other is not self and self._is_of_same_peer(other)]
        if len(others) < self.limits.connections:
            return True
        idle = [other for other in others if other.cycle is None or other.cycle.response_complete]
        if idle:
            min(idle, key=lambda other: other._heard_at).transport.abort()
        return bool(idle)

    def _is_of_same_peer(self, other: Any) -> TypeGuard["_BankProtocol"]:
        return (
            isinstance(other, _BankProtocol)
            and other.certificate == self.certificate
            and not other.transport.is_closing()
        )

    def _expect_headers(self) -> None:
        """A request that has begun must show its headers in time, however slowly its bytes drip in."""
        if self.conn.their_state is not h11.IDLE:
            self._stop_timer()
        elif self._header_timer is None and not self.transport.is_closing():
            self._header_timer = self.loop.call_later(self.limits.header_timeout_s, self._too_slow)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _too_slow(self) -> None:
        self._header_timer = None
        if not self.transport.is_closing():
            self.transport.abort()


def public_server(app: App, host: str, port: int, identity: Identity, limits: Limits) -> QuietServer:
    """For banks: a client certificate of the consortium's CA is required before any byte of HTTP is read."""
    protocol = type("BankProtocol", (_BankProtocol,), {"limits": limits})
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=protocol,
        lifespan="off",
        limit_concurrency=limits.connections_in_all,
        ssl_ca_certs=str(identity.ca),
        ssl_cert_reqs=ssl.CERT_REQUIRED,
        **_common(identity),
    )
    return _server(config)


def private_server(app: App, port: int, identity: Identity) -> QuietServer:
    """For the operator, on loopback only; it also tells the SuperLink of start and end."""
    return _server(uvicorn.Config(app, host="127.0.0.1", port=port, http="h11", lifespan="on", **_common(identity)))


def _common(identity: Identity) -> dict[str, Any]:
    read_private(identity.key)  # refused if others can read it; OpenSSL would not mind
    return {
        "ssl_certfile": str(identity.certificate),
        "ssl_keyfile": str(identity.key),
        "ssl_keyfile_password": identity.passphrase,
        "ws": "none",
        "access_log": False,
        "log_level": "warning",
        "server_header": False,
        "timeout_keep_alive": _KEEP_ALIVE_S,
        "timeout_graceful_shutdown": 5,
    }


def _server(config: uvicorn.Config) -> QuietServer:
    config.load()
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
    return QuietServer(config)
