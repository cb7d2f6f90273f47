"""What one request, one principal and all of them together may take of the service."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from starlette.requests import ClientDisconnect, Request

from fedbank import strict_json
from fedbank.rates import Rate
from fedbank.serving.store.database import RecordsError
from fedbank_client.serving.problems import MALFORMED, MEDIA, SLOW_BODY, TOO_LARGE, RefusedError

P = ParamSpec("P")
T = TypeVar("T")
_KIB = 1024
_RETRY_S = 2.0


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bytes of a body, seconds of a request and of its parts, requests and connections at once.

    ``request_s``: a whole request, its streamed answer included. ``shutdown_s``: for those that run at a stop.
    """

    question_bytes: int = 64 * _KIB
    batch_bytes: int = 4096 * _KIB
    depth: int = 16
    header_bytes: int = 16 * _KIB
    header_s: float = 10.0
    body_s: float = 30.0
    request_s: float = 150.0
    keep_alive_s: int = 30
    shutdown_s: int = 30
    at_once: int = 512
    connections: int = 2048


class Rates(Rate):
    """How often each principal may ask, and ``most_open``: how many of its questions are being answered at a time. A
    few long ones would take every slot of the engine."""

    def __init__(
        self, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic, *, most_open: int = 1 << 30
    ) -> None:
        super().__init__(per_s, burst, clock)
        self._most_open = most_open
        self._open: Counter[str] = Counter()

    def begin(self, principal: str) -> Callable[[], None] | None:
        """One more open question, and what ends it; ``None``: there are too many."""
        if self._open[principal] >= self._most_open:
            return None
        self._open[principal] += 1
        return lambda: self._end(principal)

    def _end(self, principal: str) -> None:
        self._open[principal] -= 1
        if not self._open[principal]:
            del self._open[principal]


class Threads:
    """Where blocking work is done beside the event loop: few threads of its own, and a queue with an end."""

    def __init__(self, name: str, workers: int, waiting: int = 256) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=f"fedbank-{name}")
        self._most, self._now = workers + waiting, 0

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What ``work`` gives. It is done to its end even if nobody waits for it any more.

        Raises:
            RecordsError: too much waits already.
        """
        if self._now >= self._most:
            raise RecordsError("Expected room in the queue of the store, got none. Try again later.", _RETRY_S)
        self._now += 1
        future = asyncio.get_running_loop().run_in_executor(self._pool, lambda: work(*args, **kwargs))
        future.add_done_callback(self._done)
        return await future

    def close(self) -> None:
        """Once what is under way is done."""
        self._pool.shutdown(wait=True)

    def _done(self, future: "asyncio.Future[Any]") -> None:
        self._now -= 1


async def read_object(request: Request, most_bytes: int, limits: HttpLimits) -> tuple[bytes, dict[str, Any]]:
    """The body of ``request`` and the JSON object in it; what its headers announce is not believed.

    Raises:
        RefusedError: too large, late, compressed, of another type, no UTF-8, no JSON object, or nested too deep.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" or request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RefusedError(MEDIA, "Expected application/json without compression, got another type. Send that.")
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced[:18]) > most_bytes:
        raise RefusedError(TOO_LARGE, f"Expected at most {most_bytes} bytes, got more. Send less.")
    content = await _received(request, most_bytes, limits.body_s)
    try:
        found = strict_json.read_object(content, most_bytes)
        check_plain(found, limits.depth)
        return content, found
    except ValueError:  # no message of theirs: it may quote the body
        raise RefusedError(
            MALFORMED,
            f"Expected one JSON object in UTF-8, each name once, nested at most {limits.depth} deep, got another.",
        ) from None


async def _received(request: Request, most_bytes: int, within_s: float) -> bytes:
    content = bytearray()
    try:
        async with asyncio.timeout(within_s):
            async for piece in request.stream():
                content += piece
                if len(content) > most_bytes:
                    raise RefusedError(TOO_LARGE, f"Expected at most {most_bytes} bytes, got more. Send less.")
    except TimeoutError:
        raise RefusedError(SLOW_BODY, f"Expected the request within {within_s:g} s, got a slower one.") from None
    except ClientDisconnect:
        raise RefusedError(MALFORMED, "Expected a whole request, got a part of it.") from None
    return bytes(content)


def check_plain(value: object, depth: int) -> None:
    """``ValueError`` for JSON nested deeper than ``depth``, or with half a character (a lone surrogate) in it."""
    level = [value]
    for _ in range(depth + 2):
        if not level:
            return
        following: list[object] = []
        for one in level:
            if isinstance(one, dict):
                following += [*one, *one.values()]
            elif isinstance(one, list):
                following += one
            elif isinstance(one, str):
                one.encode()
        level = following
    raise ValueError("nested too deep")
