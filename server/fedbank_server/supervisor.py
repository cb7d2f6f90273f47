"""Keeps one child process running: the SuperLink, or a campaign."""

import logging
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

_LOG = logging.getLogger("fedbank.supervisor")
_ENDED_BY_A_PERSON = frozenset({0, 2})
"""Exit codes after which a restart would change nothing: done, or something that a person has to put right."""


def supervise(
    command: Sequence[str],
    stop: threading.Event,
    *,
    pause_s: tuple[float, float] = (0.5, 30.0),
    healthy_s: float = 60.0,
    on_restart: Callable[[int, float], None] = lambda code, pause_s: None,
) -> int:
    """Run ``command`` and start it again whenever it crashes; the exit code once that is 0 or 2, or ``stop`` set.

    Pauses between starts double from ``pause_s[0]`` to ``pause_s[1]`` seconds and begin anew after a child that lived
    for ``healthy_s``. The child gets SIGTERM on ``stop`` and SIGKILL ten seconds later. ``on_restart`` gets the exit code
    (negative: the signal) and the pause.
    """
    wait_s = pause_s[0]
    while True:
        began = time.monotonic()
        code = _run_once(command, stop)
        if code in _ENDED_BY_A_PERSON or stop.is_set():
            return code
        wait_s = pause_s[0] if time.monotonic() - began > healthy_s else wait_s
        _LOG.error("%s ended with %d; starting it again in %.1f s", command[0], code, wait_s)
        on_restart(code, wait_s)
        if stop.wait(wait_s):
            return code
        wait_s = min(2 * wait_s, pause_s[1])


def _run_once(command: Sequence[str], stop: threading.Event) -> int:
    with subprocess.Popen(command) as child:
        while child.poll() is None and not stop.wait(0.1):
            pass
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
        return child.wait()
