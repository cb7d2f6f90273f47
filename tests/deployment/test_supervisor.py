"""A child that crashes is started again; one that ends or is asked to end is not."""

import math
import os
import signal
import subprocess
import sys
import threading
import time
from inspect import signature
from pathlib import Path

import pytest

from fedbank.supervision import supervise


def child(folder: Path, ending: str) -> list[str]:
    """Notes every start; ``ending`` may use the number of the start, ``n``."""
    code = (
        f"import os, signal, sys, time; f = open({str(folder / 'starts')!r}, 'a+'); f.write('x'); f.flush(); f.seek(0)"
    )
    return [sys.executable, "-c", f"{code}; n = len(f.read()); {ending}"]


def starts(folder: Path) -> int:
    return len((folder / "starts").read_text())


def test_a_child_that_crashes_is_started_again_until_it_is_done(tmp_path: Path) -> None:
    seen: list[int] = []
    command = child(tmp_path, "os.kill(os.getpid(), 9) if n == 1 else sys.exit(1 if n < 4 else 0)")
    code = supervise(command, threading.Event(), pause_s=(0.01, 0.02), on_restart=lambda code, _: seen.append(code))
    assert (code, starts(tmp_path), seen) == (0, 4, [-9, 1, 1])


def test_what_a_person_has_to_put_right_is_not_tried_again(tmp_path: Path) -> None:
    assert supervise(child(tmp_path, "sys.exit(2)"), threading.Event()) == 2
    assert starts(tmp_path) == 1


def test_a_stop_ends_the_child(tmp_path: Path) -> None:
    stop = threading.Event()
    threading.Timer(1.0, stop.set).start()
    began = time.monotonic()
    assert supervise(child(tmp_path, "time.sleep(60)"), stop) == -15
    assert time.monotonic() - began < 5
    assert starts(tmp_path) == 1


class Waits(threading.Event):
    """Keeps for how long it was waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout)
        return super().wait(timeout)


def test_pauses_between_starts_double_up_to_a_bound_and_are_kept(tmp_path: Path) -> None:
    told: list[float] = []
    stop = Waits()
    supervise(
        child(tmp_path, "sys.exit(1 if n < 7 else 0)"),
        stop,
        pause_s=(0.03, 0.12),
        healthy_s=math.inf,
        on_restart=lambda _, pause_s: told.append(pause_s),
    )
    assert told == [0.03, 0.06, 0.12, 0.12, 0.12, 0.12]
    assert [seconds for seconds in stop.seconds if seconds in told] == told
    assert starts(tmp_path) == 7


def test_after_a_child_that_lived_for_long_pauses_begin_anew(tmp_path: Path) -> None:
    told: list[float] = []
    supervise(
        child(tmp_path, "sys.exit(1 if n < 4 else 0)"),
        threading.Event(),
        pause_s=(0.01, 0.2),
        healthy_s=0.0,
        on_restart=lambda _, pause_s: told.append(pause_s),
    )
    assert told == [0.01] * 3


def test_a_stop_in_a_pause_is_not_kept_waiting(tmp_path: Path) -> None:
    stop, began = threading.Event(), time.monotonic()
    command = child(tmp_path, "sys.exit(7)")
    assert supervise(command, stop, pause_s=(30.0, 30.0), on_restart=lambda code, pause_s: stop.set()) == 7
    assert time.monotonic() - began < 30
    assert starts(tmp_path) == 1


@pytest.mark.fault(4)
def test_however_often_it_crashed_a_bank_is_started_in_time_to_be_online_after_75_seconds() -> None:
    first, longest = signature(supervise).parameters["pause_s"].default
    assert 0 < first <= 1, "a SuperLink is back within 15 s, and needs some for itself"
    assert first < longest <= 30, "a bank that is started then has 45 s left"


@pytest.mark.parametrize(("supervisor", "code"), [("gone", -signal.SIGTERM), ("there", 7), ("", 7)])
def test_a_process_whose_supervisor_was_killed_while_it_started_ends_at_once(supervisor: str, code: int) -> None:
    """Its parent is somebody else by then, and would never be gone."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    number = {"gone": str(ended.pid), "there": str(os.getpid()), "": ""}[supervisor]
    script = "import sys, time\nfrom fedbank.supervision import end_with_parent\nend_with_parent(0.05)\n"
    ending = "time.sleep(60)" if supervisor == "gone" else "time.sleep(0.5)\nsys.exit(7)"
    environment = os.environ | {"FEDBANK_SUPERVISOR": number}
    assert subprocess.run([sys.executable, "-c", script + ending], env=environment, timeout=50).returncode == code
