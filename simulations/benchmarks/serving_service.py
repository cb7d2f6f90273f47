"""What a bank's service adds around its model, and what a change of releases costs those who are being answered.

``pipeline``: everything but the model and HTTP (stages, sessions, the sealed SQLite store, the evidence) around an
engine that answers at once; 200 questions a second in Chinese and English, most with personal data, a half in
conversations that go on; arrivals as in :mod:`simulations.benchmarks.open_loop`. Once in a folder on a disk, where an
answer waits for two commits in a row, store and evidence, and once in a folder in memory, where they cost nothing;
``fsync_p50_ms`` says what one costs there.
``http``: the same over loopback HTTP with a token of each customer's, the service in a process of its own, in a folder
on the disk; no target. ``switch``: 50 questions a second to the tiny model while its operator promotes one of two real
merged releases and rolls it back, ten times each; seconds from the command until the last answer that began with the
release before has ended and the first with the new one; ``mixed_answers`` are not word for word what the release that
they name says.
``python -m simulations.benchmarks.serving_service [--seconds 60] [--only CASE] [--json]``. Exit code 1 if a target is
missed.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedbank.serving.access.development_issuer import DevelopmentIssuer
from fedbank.serving.access.rights import Role
from fedbank.serving.rollout.desk import Offered
from simulations.benchmarks import open_loop
from simulations.benchmarks.http_client import Connections
from simulations.benchmarks.open_loop import Observed, percentile
from simulations.benchmarks.reporting import argument_parser, write_lines
from simulations.benchmarks.service_process import AUDIENCE, HOST
from simulations.benchmarks.service_world import FixedEngine, Folders, service
from simulations.benchmarks.serving_questions import CUSTOMERS, Customers
from simulations.benchmarks.switching import Load
from simulations.benchmarks.switching import switch as switching

RATE, P50_MS, P99_MS = 200.0, 5.0, 20.0
"""Questions a second, and the targets."""
SWITCH_LOAD, SWITCHES, SWITCH_S = Load(50.0, 8), 10, 5.0
"""The load, commands of each kind, and the target in seconds."""
_MEMORY = Path("/dev/shm")
Line = dict[str, Any]


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
    return _timed(f"pipeline, {place}", seen) | {
        "fsync_p50_ms": round(fsync, 3),
        "first_text_p50_ms": round(percentile(customers.first_ms, 0.5), 2),
        "first_text_p99_ms": round(percentile(customers.first_ms, 0.99), 2),
        "pipeline_p50_ms": round(p50, 2),
        "pipeline_p99_ms": round(p99, 2),
        "pipeline_max_ms": round(max(seen.milliseconds), 1),
        "targets_ms": [P50_MS, P99_MS],
        "ok": p50 <= P50_MS and p99 <= P99_MS and not seen.errors,
    }


def _timed(case: str, seen: Observed) -> Line:
    return {
        "case": case,
        "offered_per_s": RATE,
        "achieved_per_s": round(seen.achieved_per_s, 1),
        "answers": len(seen.milliseconds),
        "failed": len(seen.errors),
        "errors": dict(Counter(seen.errors)),
    }


def http(seconds: float) -> Iterator[Line]:
    """One line; the service is a process of its own, in a folder on the disk."""
    with tempfile.TemporaryDirectory() as name:
        folder, command = Path(name), [sys.executable, "-m", "simulations.benchmarks.service_process", name]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None and process.stdout is not None
            port = int(process.stdout.readline())
            asyncio.run(_http(folder, port, min(seconds, 3.0)))  # the first run is cold
            seen = asyncio.run(_http(folder, port, seconds))
            process.stdin.close()
        yield _timed("http", seen) | {
            "fsync_p50_ms": round(fsync_ms(folder), 3),
            "http_p50_ms": round(percentile(seen.milliseconds, 0.5), 2),
            "http_p99_ms": round(percentile(seen.milliseconds, 0.99), 2),
            "http_max_ms": round(max(seen.milliseconds), 1),
        }


async def _http(folder: Path, port: int, seconds: float) -> Observed:
    issuer, customers, links = DevelopmentIssuer(folder, HOST), Customers(), Connections(HOST, port)
    now = datetime.now(UTC)
    tokens = [
        issuer.token(Role.CUSTOMER_CHANNEL, f"C-{number}", AUDIENCE, now, peer=HOST) for number in range(CUSTOMERS)
    ]

    async def ask(number: int, _: float) -> None:
        customer, text, session = customers.next(number)
        body = {"question": text} | ({"session_id": session} if session else {})
        customers.heard(customer, (await links.post("/v1/query", tokens[customer], body))["session_id"])

    try:
        return await open_loop.run(RATE, seconds, ask)
    finally:
        await links.close()


def switch(seconds: float) -> Iterator[Line]:
    """One line; at least a second between two commands."""
    with tempfile.TemporaryDirectory() as folder:
        seen = switching(Path(folder), SWITCH_LOAD, SWITCHES, max(1.0, seconds / (3 * SWITCHES)))
    slowest = {kind: max(seen.seconds(kind)) for kind in ("promote", "rollback")}
    mixed = sum(one.mixed for one in seen.answers)
    yield {
        "case": "switch",
        "offered_per_s": SWITCH_LOAD.per_s,
        "achieved_per_s": round(seen.load.achieved_per_s, 1),
        "answers": len(seen.answers),
        "by_release": dict(Counter(one.release for one in seen.answers)),
        "tokens": SWITCH_LOAD.tokens,
        "slots": SWITCH_LOAD.limits.max_running,
        "queue": SWITCH_LOAD.limits.max_waiting,
        "p50_ms": round(percentile(seen.load.milliseconds, 0.5), 1),
        "p99_ms": round(percentile(seen.load.milliseconds, 0.99), 1),
        "switches": SWITCHES,
        "taken_up_s_max": round(max(seen.taken_up_s), 3),
        "switch_s_median": round(percentile(seen.seconds("promote"), 0.5), 3),
        "switch_s_max": round(slowest["promote"], 3),
        "rollback_s_median": round(percentile(seen.seconds("rollback"), 0.5), 3),
        "rollback_s_max": round(slowest["rollback"], 3),
        "failed_requests": len(seen.load.errors),
        "errors": dict(Counter(seen.load.errors)),
        "mixed_answers": mixed,
        "target_s": SWITCH_S,
        "ok": max(slowest.values()) <= SWITCH_S and not seen.load.errors and not mixed,
    }


CASES = {"pipeline": pipeline, "http": http, "switch": switch}


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
