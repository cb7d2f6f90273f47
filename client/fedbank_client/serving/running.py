"""The service's process from its start to its orderly stop."""

import asyncio
import contextlib
import ipaddress
import signal
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from fedbank.config import ServeConfig
from fedbank.errors import RunError
from fedbank_client.home import Home
from fedbank_client.serving.app import make_app
from fedbank_client.serving.loops import ReleaseWatch, running
from fedbank_client.serving.server import make_server
from fedbank_client.serving.tls import server_context
from fedbank_client.serving.wiring import Opened, opened_service

_LOOK_S = 0.2
_T = TypeVar("_T")
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Listener:
    """Where the service listens, before anything is loaded: a port that is taken is told at once."""

    socket: socket.socket
    context: ssl.SSLContext | None

    @property
    def url(self) -> str:
        """The address of its pages."""
        host, port = self.socket.getsockname()[:2]
        scheme = "https" if self.context is not None else "http"
        return f"{scheme}://[{host}]:{port}/" if ":" in host else f"{scheme}://{host}:{port}/"


def serve(home: Home, config: ServeConfig, passphrase: bytes | None, say: Say, drain_s: int) -> bool:
    """Answer until SIGTERM or SIGINT, then ``drain_s`` seconds at most for answers that are being written.

    ``False``: the engine's process ended by itself; a service that is started again starts it again.

    Raises:
        FedBankError: the service cannot start; said before a model is loaded where that is possible.
    """
    context = server_context(config.tls)
    with _listening(config.host, config.port) as bound:
        opening = opened_service(home, config, passphrase, say, stop_s=drain_s)
        return asyncio.run(_serve(opening, config, say, Listener(bound, context)))


async def _serve(
    opening: AbstractAsyncContextManager[Opened], config: ServeConfig, say: Say, listener: Listener
) -> bool:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        opened = await _unless(stop, stack.enter_async_context(opening))
        if opened is None:
            return True
        watch = ReleaseWatch(opened, say)
        await watch.look()
        service, records = opened.service, config.records
        server = make_server(make_app(service), service.limits, listener.context)
        serving = asyncio.create_task(server.serve(sockets=[listener.socket]))
        async with running(opened, watch, timedelta(days=records.retention_days), records.purge_at):
            _tell(config, listener, say)
            await _unless(stop, _ended(serving, opened.engine_ended))
            code = None if stop.is_set() else opened.engine_ended()
            why = "Stopping" if code is None else f"The engine ended by itself (exit code {code})"
            say(f"{why}: answers that are being written are finished first.")
        server.should_exit = True
        await serving
        return code is None


async def _ended(serving: "asyncio.Task[None]", engine_ended: Callable[[], int | None]) -> None:
    """Once there is no server any more, or no engine."""
    while not serving.done() and engine_ended() is None:
        await asyncio.sleep(_LOOK_S)


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, _T]) -> _T | None:
    """What ``work`` gives; ``None`` once ``stop`` is set, which ends it."""
    task, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return None
    finally:
        stopping.cancel()


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """The address, taken; nobody can connect before the service listens."""
    family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, port))
        except OSError as error:
            raise RunError(
                f"Expected to listen on {host}, port {port}, got: {error.strerror}. Stop who does, or choose another: "
                "port=NUMBER"
            ) from None
        yield bound


def _tell(config: ServeConfig, listener: Listener, say: Say) -> None:
    """Where it is, and who may get tokens."""
    url = listener.url
    say(f"Chat: {url}   Operator: {url}operator   Description of the interface: {url}openapi.json")
    if config.access.kind == "development":
        say("Tokens: this service's own, for anybody on this machine. For customers set access=provider.")
    else:
        say(f"Tokens: those of {config.access.issuer} for {config.access.audience}.")
    if listener.context is None and not ipaddress.ip_address(config.host).is_loopback:
        say("Plain HTTP, which others can read on the way: set tls.certificate and tls.key, or put TLS before it.")
