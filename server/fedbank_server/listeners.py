"""The coordinator's two HTTPS listeners: one for banks (mutual TLS), one for the operator (loopback)."""

import contextlib
import hashlib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from fedbank.certificates import read_private
from fedbank.prompt_http import PromptProtocol
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


class _BankProtocol(PromptProtocol):
    """Tells the application whose certificate the peer has; each certificate has connections of its own."""

    def identify(self) -> str:
        """The SHA-256 of the peer's certificate."""
        tls = self.transport.get_extra_info("ssl_object")
        der = tls.getpeercert(binary_form=True) if tls is not None else None
        certificate = hashlib.sha256(der).hexdigest() if der else ""
        app, extensions = self.app, {CERTIFICATE: certificate}

        async def with_certificate(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "extensions": extensions}, receive, send)

        self.app = with_certificate
        return certificate


def public_server(app: App, host: str, port: int, identity: Identity, limits: Limits) -> QuietServer:
    """For banks: a client certificate of the consortium's CA is required before any byte of HTTP is read."""
    bounds = {"header_timeout_s": limits.header_timeout_s, "most_connections": limits.connections}
    protocol = type("BankProtocol", (_BankProtocol,), bounds)
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
