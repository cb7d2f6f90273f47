"""The connection to a bank's Redis: every call bounded in time, every failure in plain words without a secret.

The package ``redis`` is imported when a link is made: a bank that shares nothing between processes does not need it.
"""

import asyncio
import re
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from fedbank.errors import FedBankError

Words = Sequence[str | bytes | int]
_CODE = re.compile(r"[A-Z]{3,20}\b")
_REFUSALS = ("unauthenticated multibulk", "ACL failure in script", "The user executing the script")
"""Redis refuses long commands without a password, and what a script may not do, under the code of any error."""
_CONNECTIONS = 32
_BUSY_S, _AWAY_S = 1.0, 5.0


class SharedStoreError(FedBankError):
    """Redis cannot do it (HTTP 503). ``retry_after_s``: when it may be worth another try; ``None``: mend it first."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class RedisAccess:
    """Where Redis is and how to get in: ``redis://[user:password@]host[:port][/number]``, ``rediss://`` for TLS, or
    ``unix:///path``.

    ``password``: if it is not in the URL. ``authority``: the CA certificates (PEM) to trust instead of the system's;
    ``certificate`` and ``key``: this service's own, for a Redis that asks for them (``tls-auth-clients``).
    ``patience_s``: for every call in all, the wait for a free connection included.
    """

    url: str = field(repr=False)
    password: str | None = field(default=None, repr=False)
    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    patience_s: float = 1.0


class RedisLink:
    """Connections of one event loop.

    Raises (every method):
        SharedStoreError: Redis is away, slow or full, or does not let this service in.
    """

    def __init__(self, access: RedisAccess) -> None:
        try:
            from redis.asyncio import BlockingConnectionPool, Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ImportError:
            raise SharedStoreError(
                "Expected the package redis for a shared store, got none. Run: pip install 'fedbank[redis]'"
            ) from None
        kind, options = _address(access)
        self.said, self._patience_s = str(options.pop("said")), access.patience_s
        pool = BlockingConnectionPool(
            max_connections=_CONNECTIONS,
            timeout=access.patience_s,
            connection_class=kind,
            socket_timeout=access.patience_s,
            socket_connect_timeout=access.patience_s,
            retry=Retry(NoBackoff(), 0),  # what may have been done already is not sent again
            protocol=2,
            **options,
        )
        self._redis = Redis.from_pool(pool)
        self._scripts: dict[str, Any] = {}

    async def call(self, script: str, keys: Sequence[str], words: Words) -> Any:
        """What the Lua ``script`` returns; Redis does it at one moment and as a whole."""
        if script not in self._scripts:
            self._scripts[script] = self._redis.register_script(script)
        with self._in_words():
            async with asyncio.timeout(self._patience_s):
                return await self._scripts[script](keys, words)

    async def check(self) -> None:
        """Whether Redis is there and lets this service in: for a start that fails early."""
        with self._in_words():
            async with asyncio.timeout(self._patience_s):
                await self._redis.ping()

    async def close(self) -> None:
        """Close every connection."""
        await self._redis.aclose()

    def __repr__(self) -> str:
        return f"RedisLink({self.said})"

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        from redis.exceptions import RedisError

        try:
            yield
        except (RedisError, OSError) as error:  # TimeoutError and ssl.SSLError are OSErrors
            raise self._told(error) from None

    def _told(self, error: Exception) -> SharedStoreError:
        from redis import exceptions as known

        code = _CODE.match(str(error))
        got = code.group() if code else type(error).__name__
        is_refused = isinstance(error, known.AuthenticationError | known.NoPermissionError)
        if is_refused or any(words in str(error) for words in _REFUSALS):
            why, remedy, wait_s = "a refusal", "Correct the user, the password or the user's rights.", None
        elif any(isinstance(one, ssl.SSLError) for one in (error, error.__cause__, error.__context__)):
            why, remedy, wait_s = "no TLS that both sides accept", "Check the address and the certificates.", None
        elif isinstance(error, known.OutOfMemoryError):
            why, remedy, wait_s = "one that is full", "Raise its maxmemory.", _AWAY_S
        elif isinstance(error, known.TimeoutError | TimeoutError):
            why, remedy, wait_s = f"none within {self._patience_s:g} s", "Try again; look at Redis itself.", _BUSY_S
        else:
            why, remedy, wait_s = got, "Try again; look at Redis itself and the network to it.", _AWAY_S
        return SharedStoreError(f"Expected an answer of Redis at {self.said}, got {why}. {remedy}", wait_s)


def _address(access: RedisAccess) -> tuple[Any, dict[str, Any]]:
    """The class of connections and their options; no option comes from the URL, where one could switch TLS's checks
    off.
    """
    from redis.asyncio import Connection, SSLConnection, UnixDomainSocketConnection

    try:
        parts = urlsplit(access.url)
        port, number = parts.port or 6379, parts.path.strip("/") or "0"
    except ValueError:
        parts, port, number = urlsplit(""), 0, ""
    is_socket = parts.scheme == "unix" and parts.path.startswith("/") and not parts.hostname
    is_host = parts.scheme in ("redis", "rediss") and bool(parts.hostname) and number.isascii() and number.isdigit()
    if not (is_socket or is_host) or parts.query or parts.fragment:
        raise SharedStoreError(
            "Expected the URL of Redis, such as rediss://user:password@host:6379/0, without options after a '?', got "
            "another (not shown, it may hold a password). Correct it."
        )
    password = access.password if access.password is not None else parts.password and unquote(parts.password)
    login: dict[str, Any] = {"username": parts.username and unquote(parts.username), "password": password}
    if is_socket:
        return UnixDomainSocketConnection, login | {"said": f"unix://{parts.path}", "path": parts.path}
    said = f"{parts.scheme}://{parts.hostname}:{port}/{number}"
    options = login | {"said": said, "host": parts.hostname, "port": port, "db": int(number)}
    if parts.scheme == "redis":
        return Connection, options
    return SSLConnection, options | _tls(access)


def _tls(access: RedisAccess) -> dict[str, Any]:
    try:
        context = ssl.create_default_context(cafile=access.authority)
        if access.certificate is not None:
            context.load_cert_chain(access.certificate, access.key, password="")
    except (OSError, ssl.SSLError):
        raise SharedStoreError(
            f"Expected CA certificates in {access.authority or 'the system'} and this service's own in "
            f"{access.certificate or 'no file'} with its key, without a passphrase, got others. Name the right files."
        ) from None
    return {
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
        "ssl_min_version": ssl.TLSVersion.TLSv1_2,
        "ssl_ca_certs": access.authority and str(access.authority),
        "ssl_certfile": access.certificate and str(access.certificate),
        "ssl_keyfile": access.key and str(access.key),
    }
