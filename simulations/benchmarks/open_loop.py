"""Requests that come when they come: arrivals of a Poisson process, whether or not those before are answered.

A latency counts from the moment at which the request was due, so that a service that stands still is charged for
everybody who came meanwhile (a closed loop would ask less of it just then).
"""

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

Ask = Callable[[int, float], Awaitable[None]]
"""Gets a request's number and the moment at which it was due (``time.perf_counter``)."""


@dataclass(slots=True)
class Observed:
    """Milliseconds of those that were answered, names of the errors of those that were not, and seconds in all."""

    milliseconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def achieved_per_s(self) -> float:
        """Answers a second, from the first arrival to the last answer."""
        return len(self.milliseconds) / self.seconds


async def run(
    rate_per_s: float, seconds: float, ask: Ask, *, until: "asyncio.Task[None] | None" = None, seed: int = 1
) -> Observed:
    """Call ``ask`` at ``rate_per_s`` for ``seconds``, and while ``until`` goes on; return once every one has ended."""
    seen, tasks = Observed(), set[asyncio.Task[None]]()

    async def one(number: int, due: float) -> None:
        try:
            await ask(number, due)
            seen.milliseconds.append(1000 * (time.perf_counter() - due))
        except Exception as error:  # noqa: BLE001  (whatever it is, it is counted)
            seen.errors.append(type(error).__name__)

    began = time.perf_counter()
    async for number, due in _arrivals(rate_per_s, seed):
        if due > began + seconds and (until is None or until.done()):
            break
        tasks.add(task := asyncio.create_task(one(number, due)))
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks, *([until] if until else []))
    seen.seconds = time.perf_counter() - began
    return seen


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that ``share`` of them do not exceed; NaN of none."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else math.nan


async def _arrivals(rate_per_s: float, seed: int) -> AsyncIterator[tuple[int, float]]:
    rng, number = random.Random(seed), 0
    due = time.perf_counter() + rng.expovariate(rate_per_s)
    while True:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        yield number, due
        number, due = number + 1, due + rng.expovariate(rate_per_s)
