"""One thing that an attacker tries, what it should get, and what it got and cost."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

MIB = 1024 * 1024
MAX_GROWTH_MIB = 200
"""What an attempt may cost the coordinator's process in memory."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Attempt(Generic[T]):
    """``act`` tries it on a target and says what it got; anything but one of ``expected`` got too far.

    ``row`` is that of the table of faults, if it has one.
    """

    name: str
    row: int | None
    expected: tuple[str, ...]
    act: Callable[[T], str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attempt came to; ``grew_mib`` is how far the coordinator's memory rose above what it was before."""

    name: str
    row: int | None
    expected: str
    got: str
    ok: bool
    grew_mib: float
    seconds: float


def attempt(tried: Attempt[T], target: T, pid: int) -> Outcome:
    """Try it, and watch the memory of the process ``pid``."""
    before = forget_peak(pid)
    began = time.monotonic()
    got = tried.act(target)
    seconds = time.monotonic() - began
    grew = (peak_rss(pid) - before) / MIB
    ok = got in tried.expected and grew < MAX_GROWTH_MIB
    return Outcome(tried.name, tried.row, " or ".join(tried.expected), got, ok, round(grew, 1), round(seconds, 2))


def forget_peak(pid: int) -> int:
    """Bytes in memory now; ``peak_rss`` counts from here (proc_pid_clear_refs(5))."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return rss(pid)


def rss(pid: int) -> int:
    """Bytes in memory now."""
    return _status_bytes(pid, "VmRSS")


def peak_rss(pid: int) -> int:
    """The most bytes in memory since ``forget_peak``."""
    return _status_bytes(pid, "VmHWM")


def _status_bytes(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"process {pid} has no {name}")
