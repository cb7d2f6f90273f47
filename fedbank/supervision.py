"""A long-running command that is started again when it dies: for machines without a service manager of their own."""

import logging
import logging.handlers
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fedbank.foreign import printable, printable_lines

UNSUPERVISED = "--unsupervised"
"""The word with which a supervised command runs itself."""
_SUPERVISOR = "FEDBANK_SUPERVISOR"
"""Names, in a supervised process's environment, the process that supervises it."""
_ENDED_BY_A_PERSON = frozenset({0, 2})
"""Exit codes after which a restart would change nothing: done, or something that a person has to put right."""


def supervise(
    command: Sequence[str],
    stop: threading.Event,
    *,
    pause_s: tuple[float, float] = (0.5, 30.0),
    healthy_s: float = 20.0,
    grace_s: float = 10.0,
    on_restart: Callable[[int, float], None] = lambda code, pause_s: None,
) -> int:
    """Run ``command`` and start it again whenever it crashes; the exit code once that is 0 or 2, or ``stop`` set.

    Pauses between starts double from ``pause_s[0]`` to ``pause_s[1]`` seconds and begin anew after a child that lived
    for ``healthy_s``: it can start, so what ended it does not come back at once. The child gets SIGTERM on ``stop`` and
    SIGKILL ``grace_s`` seconds later. ``on_restart`` gets the exit code (negative: the signal) and the pause.
    """
    wait_s = pause_s[0]
    while True:
        began = time.monotonic()
        code = _run_once(command, stop, grace_s)
        if code in _ENDED_BY_A_PERSON or stop.is_set():
            return code
        wait_s = pause_s[0] if time.monotonic() - began > healthy_s else wait_s
        on_restart(code, wait_s)
        if stop.wait(wait_s):
            return code
        wait_s = min(2 * wait_s, pause_s[1])


def supervise_itself(words: Sequence[str], say: Callable[[str], None], *, grace_s: float = 10.0) -> int:
    """``supervise`` for ``fedbank WORDS...``, whose exit code it returns; 0 after SIGTERM or SIGINT."""
    stop = stop_on_signals()

    def tell(code: int, pause_s: float) -> None:
        what = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        say(f"It ended unexpectedly ({what}); starting it again in {pause_s:g} s.")

    command = [sys.executable, "-P", "-m", "fedbank.cli", *words, UNSUPERVISED]
    code = supervise(command, stop, grace_s=grace_s, on_restart=tell)
    return 0 if stop.is_set() else code


def is_supervised() -> bool:
    """Whether this process is the child of one that calls ``supervise``, and not a service manager's."""
    return os.environ.get(_SUPERVISOR) == str(os.getppid())


def end_with_parent(interval_s: float = 0.5) -> None:
    """From now on this process gets SIGTERM when its parent is gone; also if its supervisor was killed before now."""
    parent, orphaned = os.getppid(), _is_orphaned()

    def watch() -> None:
        while os.getppid() == parent and not orphaned:
            time.sleep(interval_s)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def log_to(path: Path) -> None:
    """Everything that FedBank's own code logs from now on goes to the end of the file at ``path``."""
    logging.raiseExceptions = False  # a full disk: a line is lost, and no trace is printed instead
    handler = logging.handlers.WatchedFileHandler(path, encoding="utf-8", delay=True)  # it may be rotated by renaming
    handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logger = logging.getLogger("fedbank")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)


class _OneLine(logging.Formatter):
    """A record is a line, whoever chose the words in it; only a traceback of ours has more."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's own name
        return printable_lines(super().formatException(ei))


def _is_orphaned() -> bool:
    """Whether whoever supervised this process, or one above it, is gone: it took seconds to get here."""
    number = os.environ.get(_SUPERVISOR, "")
    try:
        os.kill(int(number) if number.isdecimal() else os.getpid(), 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # somebody else's process has that number: it is there
    return False


def _run_once(command: Sequence[str], stop: threading.Event, grace_s: float) -> int:
    with subprocess.Popen(command, env=os.environ | {_SUPERVISOR: str(os.getpid())}) as child:
        while child.poll() is None and not stop.wait(0.1):
            pass
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(grace_s)
            except subprocess.TimeoutExpired:
                child.kill()
        return child.wait()
