"""What an operator sees of the traffic: metrics for Prometheus, the last hour by minutes. Never a customer's word.

Labels have few values (an outcome, a kind of event): no name of a customer, of a principal or of a session fits.
"""

import math
import random
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from fedbank.serving.engines.interface import Health

Outcome = Literal["answered", "cancelled", "refused", "failed"]
MINUTES = 60
_MOST_TIMES = 2000
"""Latencies kept of a minute, for its percentiles: of more, a fair sample (Vitter 1985, algorithm R)."""
_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)


@dataclass(slots=True)
class _Minute:
    at: int
    answers: int = 0
    failures: int = 0
    refused: int = 0
    milliseconds: list[float] = field(default_factory=list)


class Monitor:
    """One service's numbers, in memory: a restart begins anew."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._answers = Counter(
            "fedbank_answers", "Questions by how they ended", ["outcome", "release"], registry=self.registry
        )
        self._events = Counter(
            "fedbank_events", "Requests that were turned away, by why", ["kind"], registry=self.registry
        )
        self._tokens = Counter("fedbank_tokens", "Tokens read and written", ["direction"], registry=self.registry)
        self._seconds = Histogram(
            "fedbank_answer_seconds", "From the question to the whole answer", buckets=_BUCKETS, registry=self.registry
        )
        self._engine = Gauge("fedbank_engine", "The engine's load", ["what"], registry=self.registry)
        self._minutes: deque[_Minute] = deque(maxlen=MINUTES)
        self._draws = random.Random(0)

    def ended(
        self, outcome: Outcome, release: str, milliseconds: float, now: datetime, *, read: int = 0, written: int = 0
    ) -> None:
        """One question, however it ended; ``read`` and ``written`` in tokens."""
        self._answers.labels(outcome, release).inc()
        self._tokens.labels("read").inc(read)
        self._tokens.labels("written").inc(written)
        minute = self._minute(now)
        if outcome == "answered":
            self._seconds.observe(milliseconds / 1000)
            minute.answers += 1
            if len(minute.milliseconds) < _MOST_TIMES:
                minute.milliseconds.append(milliseconds)
            elif (place := self._draws.randrange(minute.answers)) < _MOST_TIMES:
                minute.milliseconds[place] = milliseconds
        minute.failures += outcome == "failed"
        minute.refused += outcome == "refused"

    def counted(self, kind: str) -> None:
        """One more request that was turned away before it was a question; ``kind`` is a word of the program."""
        self._events.labels(kind).inc()

    def engine(self, health: Health) -> None:
        """How the engine is now."""
        self._engine.labels("ready").set(health.ready)
        self._engine.labels("running").set(health.running)
        self._engine.labels("waiting").set(health.waiting)

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)

    def traffic(self, now: datetime) -> dict[str, Any]:
        """The last hour, minute by minute, oldest first; ``now`` is the minute that goes on."""
        current = self._minute(now).at
        by_number = {minute.at: minute for minute in self._minutes}
        first = current - MINUTES + 1
        minutes = [_view(by_number.get(number) or _Minute(number)) for number in range(first, current + 1)]
        return {"minutes": minutes, "now": minutes[-1]}

    def _minute(self, now: datetime) -> _Minute:
        number = int(now.timestamp() // 60)
        if not self._minutes or self._minutes[-1].at < number:
            self._minutes.append(_Minute(number))
        return self._minutes[-1]


def _view(minute: _Minute) -> dict[str, Any]:
    times = sorted(minute.milliseconds)
    return {
        "at": datetime.fromtimestamp(60 * minute.at, UTC).isoformat(timespec="minutes"),
        "answers": minute.answers,
        "failures": minute.failures,
        "refused": minute.refused,
        "p50_ms": _percentile(times, 0.5),
        "p95_ms": _percentile(times, 0.95),
    }


def _percentile(times: list[float], share: float) -> float | None:
    return round(times[max(0, math.ceil(share * len(times)) - 1)], 1) if times else None
