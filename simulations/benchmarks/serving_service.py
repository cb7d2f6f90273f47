"""What a bank's service adds around its model, and what a change of releases costs those who are being answered.

``pipeline``: everything but the model and HTTP (stages, sessions, the sealed SQLite store, the evidence) around an
engine that answers at once; 200 questions a second in Chinese and English, most with personal data, a half in
conversations that go on; arrivals as in :mod:`simulations.benchmarks.open_loop`. Once in a folder on a disk, where an
answer waits for two commits in a row, store and evidence, and once in a folder in memory, where they cost nothing;
``fsync_p50_ms`` says what one costs there.
``python -m simulations.benchmarks.serving_service [--seconds 60] [--only CASE] [--json]``. Exit code 1 if a target is
missed.
"""

import asyncio
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from fedbank.data.redact import RefusedTextError, redact
from fedbank.serving.answering import Answered, Answering, Asker, Delta, Question
from fedbank.serving.release_desk import Offered
from simulations.benchmarks import open_loop
from simulations.benchmarks.open_loop import Observed, percentile
from simulations.benchmarks.redaction_set import generate
from simulations.benchmarks.reporting import argument_parser, write_lines
from simulations.benchmarks.service_world import FixedEngine, Folders, service

RATE, P50_MS, P99_MS = 200.0, 5.0, 20.0
"""Questions a second, and the targets."""
_CUSTOMERS = 500
_PLAIN = (
    "我要开户，需要带什么材料？",
    "How long does a transfer abroad take, and what is the fee?",
    "定期存款提前支取利息怎么算？",
    "Can I change my phone number in the app?",
)
_MEMORY = Path("/dev/shm")
Line = dict[str, Any]


def questions(count: int) -> list[str]:
    """A half with personal data, a half without; none with a secret, which would be refused."""
    rng, found = random.Random(2), []
    for example in generate(3 * count, seed=3):
        try:
            redact(example.text)
        except RefusedTextError:
            continue
        found.append(example.text if rng.random() < 0.75 else rng.choice(_PLAIN))
    return found[:count]


class Customers:
    """Who asks what: 500 customers, every second question in the conversation that its customer had last."""

    def __init__(self) -> None:
        self._texts, self._sessions = questions(4000), dict[int, str | None]()
        self.first_ms: list[float] = []

    def next(self, number: int) -> tuple[int, str, str | None]:
        """Customer, question, session."""
        customer = number * 7919 % _CUSTOMERS
        session = self._sessions.get(customer) if number % 2 else None
        return customer, self._texts[number % len(self._texts)], session

    def heard(self, customer: int, session: str | None) -> None:
        """The session that the customer may go on with."""
        self._sessions[customer] = session

    async def ask(self, answering: Answering, number: int, due: float) -> None:
        """One question to its end, in this process."""
        customer, text, session = self.next(number)
        waiting = True
        asker = Asker(f"{customer:032x}", f"C-{customer}")
        async with aclosing(answering.ask(asker, Question(text, session))) as events:
            async for event in events:
                if isinstance(event, Delta) and waiting:
                    self.first_ms.append(1000 * (time.perf_counter() - due))
                    waiting = False
                if isinstance(event, Answered):
                    self.heard(customer, event.session_id)


def pipeline(seconds: float) -> Iterator[Line]:
    """One line a place."""
    places = {"disk": Path(tempfile.gettempdir())} | ({"memory": _MEMORY} if _MEMORY.is_dir() else {})
    for place, parent in places.items():
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            customers = Customers()
            asyncio.run(_pipeline(Path(folder), Customers(), min(seconds, 3.0)))  # the first run is cold
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            seen = asyncio.run(_pipeline(Path(folder), customers, seconds))
            yield _told(place, seen, customers, fsync_ms(Path(folder)))


def fsync_ms(folder: Path) -> float:
    """Milliseconds of the median write of 400 bytes until it is on disk."""
    times = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(200):
            file.write(bytes(400))
            began = time.perf_counter()
            os.fsync(file.fileno())
            times.append(1000 * (time.perf_counter() - began))
    return percentile(times, 0.5)


async def _pipeline(folder: Path, customers: Customers, seconds: float) -> Observed:
    release = Offered("spring-1", "a" * 64, folder)
    async with service(folder, FixedEngine(), Folders({release.release: release}, release.release)) as world:
        return await open_loop.run(RATE, seconds, lambda number, due: customers.ask(world.answering, number, due))


def _told(place: str, seen: Observed, customers: Customers, fsync: float) -> Line:
    p50, p99 = percentile(seen.milliseconds, 0.5), percentile(seen.milliseconds, 0.99)
    return {
        "case": f"pipeline, {place}",
        "offered_per_s": RATE,
        "achieved_per_s": round(seen.achieved_per_s, 1),
        "answers": len(seen.milliseconds),
        "failed": len(seen.errors),
        "fsync_p50_ms": round(fsync, 3),
        "first_text_p50_ms": round(percentile(customers.first_ms, 0.5), 2),
        "first_text_p99_ms": round(percentile(customers.first_ms, 0.99), 2),
        "pipeline_p50_ms": round(p50, 2),
        "pipeline_p99_ms": round(p99, 2),
        "pipeline_max_ms": round(max(seen.milliseconds), 1),
        "targets_ms": [P50_MS, P99_MS],
        "ok": p50 <= P50_MS and p99 <= P99_MS and not seen.errors,
    }


CASES = {"pipeline": pipeline}


def measure(seconds: float, only: str | None = None) -> Iterator[Line]:
    """The lines of every case, or of one."""
    for name, case in CASES.items():
        if only in (None, name):
            yield from case(seconds)


def main() -> int:
    """Print the lines; 1 if a target is missed."""
    parser = argument_parser("serving_service")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each open loop")
    parser.add_argument("--only", choices=sorted(CASES), help="one case")
    chosen = parser.parse_args()
    missed: list[str] = []

    def watched() -> Iterator[Line]:
        for line in measure(chosen.seconds, chosen.only):
            missed.extend([line["case"]] if not line.get("ok", True) else [])
            yield line

    write_lines("serving_service", watched(), as_json=chosen.json, report=chosen.only and f"serving_{chosen.only}")
    if missed:
        sys.stderr.write(f"Missed: {', '.join(missed)}\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
