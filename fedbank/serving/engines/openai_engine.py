"""An engine behind the OpenAI protocol: vLLM above all, or any compatible server. It may be slow, lie, hang or vanish.

Whatever it does ends in an ``EngineError`` within a bounded time, and nothing that it says in an error is passed on: it
may quote the question. A request is cancelled by closing its stream, which every such server takes as the end.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from fedbank.serving.engines.interface import (
    BACKGROUND,
    BusyError,
    DownError,
    EngineError,
    Finish,
    Generation,
    Health,
    Piece,
    RequestError,
)
from fedbank.serving.engines.sse import StreamError, events
from fedbank.serving.engines.text import messages

_RETRY_S, _LONGEST_RETRY_S = 5.0, 3600.0
_BYTES_PER_TOKEN, _BYTES_BESIDE = 4096, 1 << 16
"""An event holds a token or more, and a few hundred bytes around it."""
_PIECES_PER_TOKEN = 4
"""The most: a server may send the bytes of one token apart."""
_CUSTOMERS_FAULT = frozenset({400, 404, 413, 422})
_LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the server is and how long to wait for it, in seconds.

    ``url``: without ``/v1``. ``base``: its name of the base model. ``key``: its API key, or empty. ``first_s``: until
    the first piece of an answer, queue and prefill included; ``between_s``: between two pieces; ``answer_s``: until the
    last. ``loads``: whether it loads adapters at run time, as vLLM does; ``priorities``: whether it was told to
    schedule by them (vLLM: ``--scheduling-policy priority``). ``most_running``: requests at once, half of them
    background ones; what is more is refused here.
    """

    url: str
    base: str
    key: str = field(default="", repr=False)
    connect_s: float = 2.0
    first_s: float = 60.0
    between_s: float = 15.0
    answer_s: float = 300.0
    load_s: float = 60.0
    health_s: float = 1.0
    loads: bool = True
    priorities: bool = False
    most_running: int = 256


class OpenAIEngine:
    """See the module and ``Engine``. ``verify``: what httpx takes for TLS, such as an ``ssl.SSLContext``."""

    def __init__(self, endpoint: Endpoint, verify: Any = True) -> None:
        self._endpoint = endpoint
        headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
        self._client = httpx.AsyncClient(
            base_url=endpoint.url,
            headers=headers,
            verify=verify,
            timeout=httpx.Timeout(endpoint.first_s, connect=endpoint.connect_s),
            limits=httpx.Limits(max_connections=None),
            trust_env=False,  # a proxy from the environment must not see customers' questions
        )
        self._releases: set[str] = set()
        self._running: dict[str | None, int] = {}
        self._background = 0
        self._closed = False

    async def generate(self, asked: Generation) -> AsyncGenerator[Piece]:
        """See ``Engine``."""
        if asked.release is not None and self._endpoint.loads and asked.release not in self._releases:
            raise RequestError(f"Expected a release that is loaded, got {asked.release}. Load it first.")
        self._check_room(asked.priority)
        self._running[asked.release] = self._running.get(asked.release, 0) + 1
        self._background += asked.priority >= BACKGROUND
        try:
            async with aclosing(self._answer(asked)) as pieces:
                async for piece in pieces:
                    yield piece
        except (httpx.HTTPError, StreamError) as error:
            raise _down(type(error).__name__) from error
        except RuntimeError as error:  # httpx: the client has been closed
            if not self._closed:
                raise
            raise DownError("Expected an engine that runs, got one that was stopped.") from error
        finally:
            self._running[asked.release] -= 1
            self._background -= asked.priority >= BACKGROUND

    async def load(self, release: str, adapter: Path) -> None:
        """See ``Engine``. The server reads the folder by itself: it must see the same path."""
        if self._endpoint.loads:
            asked = {"lora_name": release, "lora_path": str(adapter.resolve())}
            if not await self._control("/v1/load_lora_adapter", asked) and release not in await self._models():
                raise RequestError(
                    f"Expected the engine to load the release {release}, got a refusal. See its log: it may read "
                    "another path, or its maximal rank is lower."
                )
        elif release not in await self._models():
            raise RequestError(f"Expected an engine that serves the model {release}, got none. Start it with that.")
        self._releases.add(release)

    async def unload(self, release: str) -> None:
        """See ``Engine``. New requests for it are refused from now on; those that run end first."""
        self._releases.discard(release)
        while self._running.get(release, 0) > 0:  # each of them is bounded by answer_s
            await asyncio.sleep(_LOOK_S)
        if self._endpoint.loads:
            await self._control("/v1/unload_lora_adapter", {"lora_name": release})

    async def health(self) -> Health:
        """See ``Engine``. The queue's figures are vLLM's; another server's are 0."""
        try:
            async with asyncio.timeout(self._endpoint.health_s):
                answer = await self._client.get("/health")
                if answer.status_code != 200:
                    return Health(False, f"The engine's /health answers {answer.status_code}.")
                running, waiting = _load(await self._client.get("/metrics"))
        except TimeoutError:
            return Health(False, f"The engine does not answer within {self._endpoint.health_s:g} s.")
        except (httpx.HTTPError, RuntimeError) as error:
            return Health(False, f"The engine cannot be reached ({type(error).__name__}).")
        return Health(True, "", running, waiting)

    async def close(self) -> None:
        """See ``Engine``."""
        self._closed = True
        await self._client.aclose()

    def _check_room(self, priority: int) -> None:
        most = self._endpoint.most_running
        if sum(self._running.values()) >= most or (priority >= BACKGROUND and self._background >= max(1, most // 2)):
            raise BusyError(f"Expected fewer than {most} requests at the engine, got as many. Try later.", _RETRY_S)

    async def _answer(self, asked: Generation) -> AsyncGenerator[Piece]:
        began, count, finish = time.monotonic(), 0, None
        usage: Any = None
        async with aclosing(self._events(asked, began + self._endpoint.answer_s)) as found:
            async for event in found:
                text, ended = _read(event)
                finish = ended or finish
                usage = event.get("usage") or usage
                if text:
                    count += 1
                    yield Piece(text, 1)
                if count > _PIECES_PER_TOKEN * asked.max_new_tokens + _PIECES_PER_TOKEN:
                    raise StreamError("it does not end")
        if finish is None:
            raise StreamError("it was cut")
        prompt, total = _tokens(usage, "prompt_tokens"), _tokens(usage, "completion_tokens")
        yield Piece("", max(0, total - count), finish, prompt)

    async def _events(self, asked: Generation, end: float) -> AsyncGenerator[dict[str, Any]]:
        """Each within its time. The waits are around single steps: a consumer's own time does not count."""
        request = self._client.build_request("POST", "/v1/chat/completions", json=_body(asked, self._endpoint))
        answer = await _within(self._client.send(request, stream=True), self._endpoint.first_s)
        try:
            if answer.status_code != 200:
                raise _refused(answer, asked.release)
            most_bytes, most = asked.max_new_tokens * _BYTES_PER_TOKEN + _BYTES_BESIDE, self._endpoint.first_s
            async with aclosing(events(answer.aiter_bytes(), most_bytes)) as stream:
                while True:
                    event = await _within(anext(stream, None), min(most, end - time.monotonic()))
                    if event is None:
                        return
                    yield event
                    most = self._endpoint.between_s
        finally:
            await answer.aclose()

    async def _control(self, path: str, body: dict[str, str]) -> bool:
        """Whether the server did it; what cannot be tried ends in ``DownError``."""
        try:
            answer = await _within(self._client.post(path, json=body), self._endpoint.load_s)
        except httpx.HTTPError as error:
            raise _down(type(error).__name__) from error
        if answer.status_code >= 500:
            raise _refused(answer, None)
        done: bool = answer.status_code == 200
        return done

    async def _models(self) -> set[str]:
        try:
            answer = await _within(self._client.get("/v1/models"), self._endpoint.load_s)
            return {str(one["id"]) for one in answer.json()["data"]}
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise _down(type(error).__name__) from error


async def _within(wait: Any, seconds: float) -> Any:
    try:
        return await asyncio.wait_for(wait, max(0.0, seconds))
    except TimeoutError:
        raise DownError(f"Expected an answer of the engine within {seconds:.1f} s, got none.", _RETRY_S) from None


def _body(asked: Generation, endpoint: Endpoint) -> dict[str, Any]:
    body = {
        "model": asked.release or endpoint.base,
        "messages": messages(asked.turns),
        "max_tokens": asked.max_new_tokens,
        "temperature": asked.temperature,
        "seed": asked.seed,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return body | ({"priority": asked.priority} if endpoint.priorities else {})


def _read(event: dict[str, Any]) -> tuple[str, Finish | None]:
    """An event's text and how the answer ended, if it did."""
    try:
        if "error" in event:
            raise StreamError("it says that it failed")
        choices = event["choices"]
        if not choices:
            return "", None  # the last event has the usage only
        text, ended = choices[0]["delta"].get("content") or "", choices[0].get("finish_reason")
        if not isinstance(text, str):
            raise TypeError
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise StreamError("it is no chat completion") from error
    return text, None if ended is None else "length" if ended == "length" else "stop"


def _tokens(usage: Any, name: str) -> int:
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and count >= 0 else 0


def _refused(answer: httpx.Response, release: str | None) -> EngineError:
    """By the status alone: the body may quote the question."""
    status = answer.status_code
    if status == 429:
        return BusyError("Expected a free place at the engine, got none. Try again later.", _retry_after(answer))
    if status in _CUSTOMERS_FAULT:
        return RequestError(
            f"Expected a request that the engine takes, got {status}: too long, or the release {release or 'base'} is "
            "not loaded there."
        )
    if status in (401, 403):
        return DownError(f"Expected the engine to accept its API key, got {status}. Set the right key.")
    return DownError(f"Expected an answer of the engine, got status {status}.", _retry_after(answer))


def _retry_after(answer: httpx.Response) -> float:
    """Seconds of ``Retry-After`` (RFC 9110, section 10.2.3); a date, or nonsense, counts as none."""
    said = answer.headers.get("retry-after", "")
    return min(float(said), _LONGEST_RETRY_S) if said.isascii() and said.isdigit() else _RETRY_S


def _down(what: str) -> DownError:
    return DownError(f"Expected an answer of the engine, got none that can be used ({what}).", _RETRY_S)


def _load(answer: httpx.Response) -> tuple[int, int]:
    """How many requests run and wait, by vLLM's metrics."""
    found = {"vllm:num_requests_running": 0.0, "vllm:num_requests_waiting": 0.0}
    if answer.status_code == 200:
        try:
            for family in text_string_to_metric_families(answer.text):
                if family.name in found:
                    found[family.name] = sum(sample.value for sample in family.samples)
            running, waiting = (int(value) for value in found.values())
        except (ValueError, OverflowError):
            return 0, 0
        return running, waiting
    return 0, 0
