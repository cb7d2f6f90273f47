"""Answers that nobody sees: copies for a release to be compared with, and its probe questions.

All of it is background work: it gives way to customers in the queue, and is left out when too much of it runs. Texts
live as long as the comparison.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from fedbank.serving.engines.interface import BACKGROUND, BusyError, Engine, EngineError, Generation, RequestError, Turn
from fedbank.serving.rollout.agreement import agrees
from fedbank.serving.rollout.desk import ReleaseDesk

_AT_ONCE = 4
PROBE_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Probe:
    """A question whose answer has to contain ``expect``."""

    question: str
    expect: str


@dataclass(slots=True)
class Pace:
    """When the first and the newest token came: seconds of a monotonic clock."""

    first: float = 0.0
    last: float = 0.0
    tokens: int = 0

    def came(self, tokens: int, at: float) -> None:
        """``tokens`` more."""
        if self.tokens == 0:
            self.first = at
        self.last = at
        self.tokens += tokens

    @property
    def ms(self) -> float:
        """Milliseconds per 100 tokens, without the wait for the first (see ``Tally``)."""
        return 1e5 * (self.last - self.first) / max(1, self.tokens - 1)


@dataclass(frozen=True, slots=True)
class Original:
    """What one release was asked and said, before any filter."""

    asked: Generation = field(repr=False)
    release: str
    text: str = field(repr=False)


class Mirror:
    """Background questions of one service."""

    def __init__(self, engine: Engine, desk: ReleaseDesk, probes: Sequence[Probe] = ()) -> None:
        self._engine, self._desk, self._probes = engine, desk, tuple(probes)
        self._tasks: set[asyncio.Task[None]] = set()
        self._probing: asyncio.Task[None] | None = None

    def offer(self, original: Original) -> None:
        """Ask the other release too, if the rollout wants it and there is room."""
        other = self._desk.loaded(self._desk.rollout.mirror_for(original.asked.request_id, original.release))
        if other is None or len(self._tasks) >= _AT_ONCE:
            return
        task = asyncio.get_running_loop().create_task(self._compare(original, other.release))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def probe(self) -> None:
        """Ask the candidate the probe questions that it has not been asked in this stage."""
        if self._probing is None or self._probing.done():
            self._probing = asyncio.get_running_loop().create_task(self._ask_probes())

    async def close(self) -> None:
        """End it all; nothing is kept of what is not finished."""
        running = [*self._tasks, *([self._probing] if self._probing else [])]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _compare(self, original: Original, release: str) -> None:
        text = await self._answer(replace(original.asked, release=release, priority=BACKGROUND))
        candidate = self._desk.rollout.candidate
        if text is not None and candidate is not None and candidate.release in (release, original.release):
            self._desk.compared(candidate.release, agrees=agrees(text, original.text))

    async def _ask_probes(self) -> None:
        while (found := self._desk.rollout.candidate) is not None and found.seen.probes < len(self._probes):
            number = found.seen.probes
            probe = self._probes[number]
            turns = (Turn("user", probe.question),)
            asked = Generation(f"probe-{number}", turns, PROBE_TOKENS, found.release, BACKGROUND)
            text = await self._answer(asked)
            if text is None:  # the engine's trouble, not the release's: later
                return
            self._desk.probed(found.release, right=probe.expect in text)

    async def _answer(self, asked: Generation) -> str | None:
        """The whole answer; ``None`` if there is none. A failure of the engine counts against the release."""
        parts, pace = list[str](), Pace()
        try:
            async with aclosing(self._engine.generate(asked)) as pieces:
                async for piece in pieces:
                    parts.append(piece.text)
                    pace.came(piece.token_count, time.monotonic())
        except BusyError:
            return None
        except RequestError:
            self._desk.doubt(str(asked.release))
            return None
        except EngineError:
            self._desk.doubt(str(asked.release))
            self._desk.saw(str(asked.release), 0.0, failed=True)
            return None
        self._desk.saw(str(asked.release), pace.ms, failed=False)
        return "".join(parts)
