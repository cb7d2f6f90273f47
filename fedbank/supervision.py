"""A long-running command that is started again when it dies: for machines without a service manager of their own.

The command runs as a child. It ends with its parent, however that ends, so that a restarted parent finds its ports and
locks free.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

UNSUPERVISED = "--unsupervised"
"""The word with which a supervised command runs itself."""
_LONG_S = 60.0
"""Whoever ran for so long was well: the next crash is a new one."""
_PAUSES_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_ASKED = (signal.SIGTERM, signal.SIGINT)


def supervise(words: Sequence[str], final: Sequence[int], say: Callable[[str], None]) -> int:
    """Run ``fedbank WORDS... --unsupervised`` until it ends with an exit code of ``final`` or a stop is asked for.

    SIGTERM and SIGINT are passed on. Returns the child's exit code, 0 after a stop.
    """
    stop = threading.Event()
    child: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _: object) -> None:
        stop.set()
        if child and child[0].poll() is None:
            child[0].send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in _ASKED}
    crashes = 0
    try:
        while True:
            began = time.monotonic()
            # In a session of its own: Ctrl-C in a terminal reaches the child once, through its parent.
            command = [sys.executable, "-m", "fedbank.cli", *words, UNSUPERVISED]
            child[:] = [subprocess.Popen(command, start_new_session=True)]
            if stop.is_set():
                child[0].terminate()
            code = child[0].wait()
            if stop.is_set():
                return 0 if code in (0, 130, -signal.SIGTERM, -signal.SIGINT) else abs(code)
            if code in final:
                return code
            crashes = 1 if time.monotonic() - began > _LONG_S else crashes + 1
            pause_s = _PAUSES_S[min(crashes, len(_PAUSES_S)) - 1]
            say(f"It ended unexpectedly ({_describe(code)}); starting it again in {pause_s:g} s.")
            stop.wait(pause_s)
            if stop.is_set():
                return 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent(interval_s: float = 0.5) -> None:
    """From now on this process gets SIGTERM when its parent is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(interval_s)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = threading.Event()
    for number in _ASKED:
        signal.signal(number, lambda *_: stop.set())
    return stop


def log_to(path: Path) -> None:
    """Everything that FedBank's own code logs from now on goes to the end of the file at ``path``."""
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logger = logging.getLogger("fedbank")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)


def _describe(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"
