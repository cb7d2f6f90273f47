"""The engine in this process: transformers on a CPU or a GPU, one thread that steps, releases as merged copies.

Requests are encoded beside the event loop, queued by ``batching``, continued by ``decoding`` and come back as pieces of
text. Every wait has an end: in the queue (``Limits.max_wait_s``) and between two pieces (``step_s``).
"""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from fedbank.errors import ModelError
from fedbank.model.loading import opened_base
from fedbank.model.spec import ModelSpec
from fedbank.model.verified import AS_STARTED
from fedbank.serving.engines.batching import Limits, Scheduler
from fedbank.serving.engines.decoding import Batch, Start
from fedbank.serving.engines.interface import (
    BusyError,
    DownError,
    EngineError,
    Finish,
    Generation,
    Health,
    Piece,
    RequestError,
)
from fedbank.serving.engines.kernels import has_kernel
from fedbank.serving.engines.merged import merge, read_adapter
from fedbank.serving.engines.originals import Originals
from fedbank.serving.engines.plan import Precision
from fedbank.serving.engines.text import Detokeniser, encode

_PRECISION_OF: Mapping[str, Precision] = {"float32": "fp32", "bfloat16": "bf16"}
_LOOK_S = 0.01
_CLOSED = "Expected an engine that runs, got one that was stopped. Start the service again."


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A base model in this process; ``digest``: of its folder, which a release must name.

    ``originals``: what its layers were made of, if they are ours (``kernels``).
    """

    model: Any
    tokenizer: Any
    digest: str
    originals: Originals | None = None

    @classmethod
    def load(cls, spec: ModelSpec, digest: str, precision: Precision | None = None) -> "LocalModel":
        """From disk, frozen, in ``precision``; ``None``: as ``spec.dtype`` says.

        Raises:
            ModelError: it cannot be loaded, or not in that precision, or its files' digest is another.
        """
        if spec.quantisation != "none":
            raise ModelError(
                f"Expected a base model that is loaded as it is, got one with quantisation={spec.quantisation}, which "
                "is for training. Choose engine.precision=int8 or int4."
            )
        chosen = precision or _PRECISION_OF[spec.dtype]
        if chosen in ("int8", "int4") and spec.path is None and spec.identifier is not None:
            raise ModelError(
                f"Expected a folder of the model for {chosen}, got {spec.identifier}. Set model=path model.path=DIR."
            )
        with opened_base(replace(spec, dtype="float32" if chosen == "fp32" else "bfloat16")) as opened:
            opened.folder.expect(digest, AS_STARTED)
            tokenizer, found = opened.tokenizer(), opened.model()
            model, originals = found.model, None
            if chosen == "fp16":
                model.to(torch.float16)
            if has_kernel(chosen, found.device) and spec.identifier is None:
                originals = Originals(opened.folder.path, chosen)
                originals.use_in(model)
                originals.moved(opened.folder.source)
                opened.folder.check_unchanged()
        return cls(model, tokenizer, digest, originals)


@dataclass(slots=True, eq=False)
class _Answer:
    """A request on its way. Everything but ``inbox`` belongs to whoever holds the engine's lock."""

    key: str
    asked: Generation
    tokens: list[int]
    most: int
    text: Detokeniser
    loop: asyncio.AbstractEventLoop
    inbox: asyncio.Queue[Piece | EngineError] = field(default_factory=asyncio.Queue)
    count: int = 0


class TransformersEngine:
    """See the module and ``Engine``. ``step_s``: the longest that one step may take before the engine counts as down.

    ``limits.max_tokens`` bounds the memory of the cache: ``plan`` says how many tokens fit.
    """

    def __init__(self, local: LocalModel, limits: Limits | None = None, *, step_s: float = 60.0) -> None:
        self._local, self._step_s = local, step_s
        self._context = int(local.model.config.max_position_embeddings)
        self._ends = _end_tokens(local)
        self._scheduler = Scheduler(limits or Limits())
        self._batches: dict[str | None, Batch] = {None: Batch(local.model)}
        self._answers: dict[str, _Answer] = {}
        self._gone: set[str] = set()
        self._leaving: set[str | None] = set()
        self._number = 0
        self._closed, self._stepped = False, time.monotonic()
        self._changed = threading.Condition()
        self._changing = asyncio.Lock()
        """Releases are loaded and unloaded one after another: one that comes back waits until it is gone."""
        self._thread = threading.Thread(target=self._run, name="fedbank-engine", daemon=True)
        self._thread.start()

    async def generate(self, asked: Generation) -> AsyncGenerator[Piece]:
        """See ``Engine``."""
        answer = await self._begin(asked)
        try:
            while True:
                piece = await self._next(answer)
                yield piece
                if piece.finish is not None:
                    return
        finally:
            self._drop(answer)

    async def load(self, release: str, adapter: Path) -> None:
        """See ``Engine``. The copy is made beside the requests, and takes the memory of the adapted layers."""
        async with self._changing:
            if release in self._batches:
                return
            batch = await asyncio.to_thread(self._merge, adapter)
            with self._changed:
                if self._closed:
                    raise DownError(_CLOSED)
                self._batches[release] = batch

    async def unload(self, release: str) -> None:
        """See ``Engine``. New requests for it are refused from now on; those that run end first."""
        async with self._changing:
            self._leaving.add(release)
            try:
                while not self._forgotten(release):
                    await asyncio.sleep(_LOOK_S)
            finally:
                self._leaving.discard(release)

    async def health(self) -> Health:
        """See ``Engine``."""
        running, waiting = self._scheduler.running, self._scheduler.waiting
        if self._closed or not self._thread.is_alive():
            return Health(False, "The engine is stopped.", running, waiting)
        if running and time.monotonic() - self._stepped > self._step_s:
            return Health(False, "The engine's last step does not end.", running, waiting)
        return Health(True, "", running, waiting)

    async def close(self) -> None:
        """See ``Engine``."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join, self._step_s)

    async def _begin(self, asked: Generation) -> _Answer:
        if asked.max_new_tokens < 1:
            raise RequestError(f"Expected an answer of at least 1 token, got {asked.max_new_tokens}. Ask for more.")
        tokens = await asyncio.to_thread(encode, self._local.tokenizer, asked.turns, self._context - 1)
        most = min(asked.max_new_tokens, self._context - len(tokens))
        text = Detokeniser(self._local.tokenizer)
        with self._changed:
            if self._closed or not self._thread.is_alive():
                raise DownError(_CLOSED)
            if asked.release not in self._batches or asked.release in self._leaving:
                raise RequestError(f"Expected a release that is loaded, got {asked.release}. Load it first.")
            self._number += 1
            answer = _Answer(str(self._number), asked, tokens, most, text, asyncio.get_running_loop())
            self._scheduler.offer(answer.key, asked.priority, len(tokens) + most, time.monotonic())
            self._answers[answer.key] = answer
            self._changed.notify()
        return answer

    async def _next(self, answer: _Answer) -> Piece:
        most = self._scheduler.limits.max_wait_s + self._step_s if answer.count == 0 else self._step_s
        try:
            found = await asyncio.wait_for(answer.inbox.get(), most)
        except TimeoutError:
            raise DownError(f"Expected the engine's next token within {most:g} s, got none.", most) from None
        if isinstance(found, EngineError):
            raise type(found)(str(found), found.retry_after_s)  # others get the same one, each its own traceback
        return found

    def _drop(self, answer: _Answer) -> None:
        """It is over, or nobody reads it any more: the slot is free at the next step."""
        with self._changed:
            if self._answers.pop(answer.key, None) is not None:
                self._gone.add(answer.key)
                self._changed.notify()

    def _forgotten(self, release: str) -> bool:
        with self._changed:
            if not self._closed and any(one.asked.release == release for one in self._answers.values()):
                return False
            self._batches.pop(release, None)
            return True

    def _merge(self, adapter: Path) -> Batch:
        tensors, scale = read_adapter(adapter, self._local.digest)
        return Batch(merge(self._local.model, tensors, scale, self._local.originals))

    # From here on: the thread that steps.

    def _run(self) -> None:
        try:
            while (turn := self._wait()) is not None:
                self._turn(*turn)
        finally:
            with self._changed:
                self._closed = True
                self._fail(list(self._answers), DownError(_CLOSED))

    def _wait(self) -> tuple[list[str], list[str]] | None:
        """Until there is something to do: who joins, and who is gone; ``None`` at the end."""
        gone: list[str] = []
        with self._changed:
            while True:
                now = time.monotonic()
                for key in self._gone:
                    self._scheduler.leave(key, now)
                gone += self._gone
                self._gone.clear()
                late = self._scheduler.overdue(now)
                self._fail(late, BusyError(_waited(self._scheduler.limits), self._scheduler.retry_after_s()))
                if self._closed:
                    return None
                joined = self._scheduler.take(now)
                if joined or self._scheduler.running or gone:
                    self._stepped = now
                    return joined, gone
                until = min(self._scheduler.next_event(now), self._scheduler.first_overdue())
                self._changed.wait(None if until == float("inf") else max(0.0, until - now))

    def _turn(self, joined: list[str], gone: list[str]) -> None:
        """One step of everybody, and a prefill of those who joined; each release's batch for itself."""
        with self._changed:
            starts: dict[str | None, list[Start]] = {}
            for key in joined:
                if (one := self._answers.get(key)) is not None:
                    start = Start(key, one.tokens, one.asked.temperature, one.asked.seed)
                    starts.setdefault(one.asked.release, []).append(start)
            batches = dict(self._batches)
        for release, batch in batches.items():
            joining = starts.get(release, [])
            try:
                batch.leave(gone)
                self._hand_out(batch, batch.step())
                self._hand_out(batch, batch.join(joining))
            except RuntimeError:  # what torch raises: out of memory above all
                self._abandon(batch, [one.key for one in joining])

    def _abandon(self, batch: Batch, joining: list[str]) -> None:
        """A batch that torch gave up: its requests fail, the engine goes on."""
        lost = [*batch.keys, *joining]
        batch.leave(lost)
        with self._changed:
            self._fail(lost, DownError("Expected the model's next token, got an error of torch, often memory.", 5.0))

    def _hand_out(self, batch: Batch, drawn: dict[str, int]) -> None:
        """Every new token to whom it belongs; who is finished leaves."""
        ready: dict[asyncio.AbstractEventLoop, list[tuple[_Answer, Piece | EngineError]]] = {}
        done = []
        with self._changed:
            for key, token in drawn.items():
                if (answer := self._answers.get(key)) is None:
                    continue
                piece = self._piece(answer, token)
                ready.setdefault(answer.loop, []).append((answer, piece))
                if piece.finish is not None:
                    done.append(key)
                    del self._answers[key]
                    self._scheduler.leave(key, time.monotonic())
        batch.leave(done)
        for loop, pieces in ready.items():
            _post(loop, pieces)

    def _piece(self, answer: _Answer, token: int) -> Piece:
        answer.count += 1
        if token in self._ends:
            return Piece(answer.text.rest(), 1, "stop", len(answer.tokens))
        text, finish = answer.text.push(token), _finish(answer)
        return Piece(text + answer.text.rest(), 1, finish, len(answer.tokens)) if finish else Piece(text, 1)

    def _fail(self, keys: list[str], error: EngineError) -> None:
        for key in keys:
            self._scheduler.leave(key, time.monotonic())
            if (answer := self._answers.pop(key, None)) is not None:
                _post(answer.loop, [(answer, error)])


def _post(loop: asyncio.AbstractEventLoop, found: list[tuple[_Answer, Piece | EngineError]]) -> None:
    """One wake-up of the loop for a whole step."""

    def deliver() -> None:
        for answer, one in found:
            answer.inbox.put_nowait(one)

    if not loop.is_closed():
        loop.call_soon_threadsafe(deliver)


def _finish(answer: _Answer) -> Finish | None:
    return "length" if answer.count >= answer.most else None


def _end_tokens(local: LocalModel) -> frozenset[int]:
    """Qwen's generation settings name two ends, its configuration one."""
    named = [local.model.generation_config.eos_token_id, local.model.config.eos_token_id, local.tokenizer.eos_token_id]
    return frozenset(token for one in named if one is not None for token in (one if isinstance(one, list) else [one]))


def _waited(limits: Limits) -> str:
    return f"Expected a free slot within {limits.max_wait_s:g} s, got none. Try again later."
