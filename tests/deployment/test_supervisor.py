"""A child that crashes is started again; one that ends or is asked to end is not."""

import sys
import threading
import time
from pathlib import Path

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
