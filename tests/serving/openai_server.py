"""A server that speaks vLLM's part of the OpenAI protocol over real HTTP, with the tiny model behind it.

A question that begins with ``fault:`` gets the fault that it names instead of an answer. As a command it is what
``vllm serve`` is: ``python openai_server.py serve MODEL --port PORT ...``.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from fedbank.serving.engines.batching import Limits
from fedbank.serving.engines.interface import EngineError, Generation, Turn
from fedbank.serving.engines.transformers_engine import LocalModel, TransformersEngine

sys.path.insert(0, str(Path(__file__).parent))
BASE = "tiny"
SECRET = "the customer's card is 6222"
"""What the server quotes in its errors and an engine must not pass on."""


class TinyServer:
    """``seen``: the bodies of requests; ``down``: whether /health says so; ``base``: the name of the base model."""

    def __init__(self, local: LocalModel, key: str = "", base: str = BASE) -> None:
        self.engine = TransformersEngine(local, Limits(window_s=0))
        self.key, self.base, self.down = key, base, False
        self.seen: list[dict[str, Any]] = []
        self.releases: list[str] = []
        self.released = asyncio.Event()
        paths = {
            "/v1/chat/completions": self._chat,
            "/v1/load_lora_adapter": self._load,
            "/v1/unload_lora_adapter": self._unload,
            "/v1/models": self._models,
            "/health": self._health,
            "/metrics": self._metrics,
        }
        routes = [Route(path, self._guarded(answer), methods=["GET", "POST"]) for path, answer in paths.items()]
        self.app = Starlette(routes=routes)

    def _guarded(self, answer: Any) -> Any:
        async def guarded(request: Request) -> Response:
            known = not self.key or request.headers.get("authorization") == f"Bearer {self.key}"
            if not known and request.url.path.startswith("/v1/"):
                return JSONResponse({"error": SECRET}, 401)
            found: Response = await answer(request)
            return found

        return guarded

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        self.seen.append(body)
        question = body["messages"][-1]["content"]
        if question.startswith("fault:"):
            return await self._fault(question.removeprefix("fault:"))
        release = body["model"] if body["model"] in self.releases else None
        if release is None and body["model"] != self.base:
            return JSONResponse({"error": SECRET}, 404)
        turns = tuple(Turn(one["role"], one["content"]) for one in body["messages"])
        asked = Generation("x", turns, body["max_tokens"], release, 0, body["temperature"], body["seed"])
        pieces = self.engine.generate(asked)
        try:
            first = await anext(pieces)
        except EngineError:
            return JSONResponse({"error": {"message": SECRET}}, 404)
        return StreamingResponse(self._stream(first, pieces), media_type="text/event-stream")

    async def _stream(self, first: Any, pieces: Any) -> AsyncIterator[str]:
        async with contextlib.aclosing(pieces):
            count, piece = 0, first
            yield event({"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
            while True:
                count += piece.token_count
                yield event({"choices": [{"delta": {"content": piece.text}, "finish_reason": piece.finish}]})
                if piece.finish:
                    break
                piece = await anext(pieces)
        usage = {"prompt_tokens": piece.prompt_tokens, "completion_tokens": count}
        yield event({"choices": [], "usage": usage}) + "data: [DONE]\n\n"

    async def _fault(self, kind: str) -> Response:
        if kind.isdigit():
            headers = {"Retry-After": "7"} if kind in ("429", "503") else {}
            return JSONResponse({"error": {"message": SECRET}}, int(kind), headers)
        if kind == "hang":
            await self.released.wait()
        return StreamingResponse(self._bad_stream(kind), media_type="text/event-stream")

    async def _bad_stream(self, kind: str) -> AsyncIterator[str]:
        word = event({"choices": [{"delta": {"content": "Yes"}, "finish_reason": None}]})
        yield ": welcome\n\n" + word
        if kind == "cut":
            raise ConnectionResetError
        if kind == "hang after a word":
            await self.released.wait()
        bad = {
            "no JSON": "data: {oops\n\n",
            "deep JSON": "data: " + "[" * 100_000 + "\n\n",
            "no object": "data: 7\n\n",
            "no choices": event({"answer": SECRET}),
            "no text": event({"choices": [{"delta": {"content": 7}}]}),
            "error": event({"error": {"message": SECRET}}),
            "no finish": "data: [DONE]\n\n",
            "no end": event({"choices": [{"delta": {}, "finish_reason": "stop"}]}),
        }
        yield bad.get(kind, "")
        while kind in ("endless words", "endless line", "comments"):
            yield {"endless words": word, "endless line": "data: " + "x" * 9999, "comments": ": still here\n\n"}[kind]
            await asyncio.sleep(0.01 if kind == "comments" else 0)

    async def _load(self, request: Request) -> Response:
        body = await request.json()
        if body["lora_name"] in self.releases:
            return JSONResponse({"error": "loaded already"}, 400)
        try:
            await self.engine.load(body["lora_name"], Path(body["lora_path"]))
        except Exception:  # noqa: BLE001  # as a server does
            return JSONResponse({"error": SECRET}, 400)
        self.releases.append(body["lora_name"])
        return PlainTextResponse("Success")

    async def _unload(self, request: Request) -> Response:
        name = (await request.json())["lora_name"]
        self.releases.remove(name)
        await self.engine.unload(name)
        return PlainTextResponse("Success")

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"data": [{"id": name} for name in (self.base, *self.releases)]})

    async def _health(self, request: Request) -> Response:
        return Response(status_code=503 if self.down else 200)

    async def _metrics(self, request: Request) -> Response:
        health = await self.engine.health()
        lines = [
            f'vllm:num_requests_running{{engine="0"}} {float(health.running)}',
            f'vllm:num_requests_waiting{{engine="0"}} {float(health.waiting)}',
        ]
        return PlainTextResponse("".join(f"# TYPE {line.split('{')[0]} gauge\n{line}\n" for line in lines))


@contextlib.contextmanager
def serving(local: LocalModel, key: str = "") -> Iterator[tuple[TinyServer, str]]:
    """The server in a thread of its own, and its URL."""
    here = TinyServer(local, key)
    server = uvicorn.Server(uvicorn.Config(here.app, port=0, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the server did not start")
            threading.Event().wait(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield here, f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)
        asyncio.run(here.engine.close())


def event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("serve")
    parser.add_argument("model", type=Path)
    parser.add_argument("--port", type=int)
    chosen, _ = parser.parse_known_args()
    if not chosen.model.is_dir():
        sys.exit(f"no model in {chosen.model}")
    from serving_models import local_tiny

    server = TinyServer(local_tiny(), os.environ["VLLM_API_KEY"], chosen.model.name)
    uvicorn.run(server.app, port=chosen.port, log_level="critical")


if __name__ == "__main__":
    main()
