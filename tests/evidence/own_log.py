"""A log of evidence as its owner keeps it, for the tests of this folder."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from fedbank.evidence.log import EvidenceLog
from fedbank.sealing.keys import SigningKey

KEY, ORIGIN = SigningKey.derived("log"), "nordic.example/coordinator"
DIGEST = "ab" * 32
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def open_log(path: Path, *, sync: bool = True, clock: Callable[[], datetime] = lambda: NOON) -> EvidenceLog:
    return EvidenceLog(path, ORIGIN, KEY, sync=sync, clock=clock)


def fill(log: EvidenceLog, count: int) -> None:
    for number in range(count):
        log.append("update.admitted", DIGEST, f"norm {number}", "bank-a")
