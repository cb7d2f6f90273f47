"""How a bank fetches from the coordinator's repository: HTTPS with its own certificate, bounded in time.

How many bytes are read is bounded by who asks (``tuf.ngclient``): it stops at the length that was signed. What
leaves is a GET without a body: the name of a file, the address, and that no compressed answer is wanted.
"""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
from tuf.api.exceptions import DownloadError, DownloadHTTPError
from tuf.ngclient import FetcherInterface

PREFIX = "/v1/releases"
_CONNECT_S, _READ_S = 10.0, 30.0
_LEAST_BYTES_PER_S = 16 * 1024
_GRACE_S = 60.0


class RepositoryFetcher(FetcherInterface):
    """``context`` carries the bank's certificate; the first of ``addresses`` (HOST:PORT) that answers is asked."""

    def __init__(self, context: ssl.SSLContext, addresses: tuple[str, ...]) -> None:
        timeout = httpx.Timeout(_READ_S, connect=_CONNECT_S)
        self._client = httpx.Client(verify=context, timeout=timeout, http2=False, trust_env=False)
        for name in ("accept", "connection", "user-agent"):
            del self._client.headers[name]
        self._client.headers["accept-encoding"] = "identity"
        self._addresses = addresses
        self._socket: socket.socket | None = None

    @property
    def url(self) -> str:
        """Where the repository is, as ``Mirror`` asks for it; the host is filled in here."""
        return f"https://coordinator{PREFIX}"

    def close(self) -> None:
        """End all connections."""
        self._client.close()

    def _fetch(self, url: str) -> Iterator[bytes]:
        path, problem = url.removeprefix("https://coordinator"), "no address"
        for number, address in enumerate(self._addresses):
            try:
                request = self._client.build_request("GET", f"https://{address}{path}")
                answer = self._begin(request)
            except httpx.TransportError as error:
                problem = f"{address}: {error or type(error).__name__}"
                continue
            self._addresses = (address, *self._addresses[:number], *self._addresses[number + 1 :])
            if answer.status_code != 200:
                answer.close()
                raise DownloadHTTPError(f"{path}: {answer.status_code}", answer.status_code)
            if "content-length" not in answer.headers:  # in chunks, what drips need not be content
                answer.close()
                raise DownloadError(f"{path} came without its length")
            return _pieces(answer, path)
        raise DownloadError(f"The coordinator cannot be reached ({problem})")

    def _begin(self, request: httpx.Request) -> httpx.Response:
        """The head of the answer, within a minute: httpx bounds each read, and a head can drip for weeks."""
        request.extensions = {**request.extensions, "trace": self._watch}
        timer = threading.Timer(_GRACE_S, self._cut)
        timer.daemon = True
        timer.start()
        try:
            return self._client.send(request, stream=True)
        finally:
            timer.cancel()

    def _watch(self, event: str, info: dict[str, Any]) -> None:
        if event == "connection.start_tls.complete":
            self._socket = info["return_value"].get_extra_info("socket")

    def _cut(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it has ended by itself
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def _pieces(answer: httpx.Response, path: str) -> Iterator[bytes]:
    """The body as it comes, never unpacked; one that only drips is given up."""
    began, size = time.monotonic(), 0
    try:
        for piece in answer.iter_raw():
            size += len(piece)
            if time.monotonic() - began > _GRACE_S + size / _LEAST_BYTES_PER_S:
                raise DownloadError(f"{path} came slower than {_LEAST_BYTES_PER_S} bytes a second")
            yield piece
    except httpx.TransportError as error:
        raise DownloadError(f"{path} broke off: {error or type(error).__name__}") from error
    finally:
        answer.close()
