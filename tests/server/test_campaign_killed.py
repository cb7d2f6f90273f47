"""kill -9 at every write of a campaign: the same campaign goes on, commits every round once and asks nobody twice."""

import os
import signal
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grid_consortium import GridConsortium

from fedbank.adapter.state import Released
from fedbank.adapter.update import Update
from fedbank_server.history import recompute

ROUNDS = 2
CALLS = ("fsync", "fchmod", "pwrite", "ftruncate")


def _in_a_process(act: Callable[[], object]) -> int:
    """The exit status of a forked process that does ``act``: 0, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _dying(at: int) -> None:
    """From now on, the coordinator's ``at``-th call that changes a file is its last; a write gets half of itself out.

    Banks are other processes in truth: what they write does not count, and they finish what they are at.
    """
    calls = 0

    def wrap(owner: Any, name: str, half: Callable[..., object] | None = None) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **named: Any) -> Any:
            nonlocal calls
            if threading.current_thread() is not threading.main_thread():
                return real(*args, **named)
            calls += 1
            if calls == at:
                for thread in threading.enumerate():
                    if thread is not threading.main_thread():
                        thread.join(5)
                if half is not None:
                    half(real, *args)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **named)

        setattr(owner, name, call)

    for name in CALLS:
        half = (lambda real, fd, content, at: real(fd, content[: len(content) // 2], at)) if name == "pwrite" else None
        wrap(os, name, half)
    wrap(Path, "replace")
    wrap(Path, "unlink")
    wrap(tempfile, "mkstemp")


def _stored(c: GridConsortium) -> set[tuple[int, str]]:
    """Round and bank of every update that the coordinator has on disk."""
    names = [path.name for path in (c.folder / "campaign" / "updates").glob("*.update")]
    return {(int(name[:5]), name[6:].removesuffix(".update")) for name in names}


@pytest.mark.slow
@pytest.mark.fault(3)
def test_killed_at_every_write_the_campaign_goes_on(tmp_path: Path, seen: Callable[..., None]) -> None:
    whole = GridConsortium(tmp_path / "whole", rounds=ROUNDS)
    assert _in_a_process(whole.run) == 0
    expected = whole.store.history.lines()
    kills = 0
    for at in range(1, 1000):
        c = GridConsortium(tmp_path / str(at), rounds=ROUNDS)

        def run_until(at: int = at, c: GridConsortium = c) -> None:
            _dying(at)
            c.run()

        status = _in_a_process(run_until)
        assert status in (0, -signal.SIGKILL), status
        stored, asked = _stored(c), {bank: c.banks[bank].asked() for bank in c.banks}
        assert _in_a_process(c.run) == 0
        lines = c.store.history.lines()
        assert [line.round for line in lines] == list(range(1, ROUNDS + 1)), at
        assert [(line.adapter, line.change) for line in lines] == [(e.adapter, e.change) for e in expected], at
        assert recompute(c.terms, lines[-1], c.store.rounds) == lines[-1].change
        for name, bank in c.banks.items():
            assert bank.charged() == list(range(1, ROUNDS + 1)), at
            for number, owner in stored:
                if owner == name:
                    assert bank.asked().count(number) == asked[name].count(number), (at, name, number)
        left = [path.name for path in (c.folder / "campaign").rglob("*") if path.name.startswith(".00")]
        assert left == [], at
        kills += status != 0
        if status == 0:
            break
    assert kills > 60
    seen(f"{kills} kills, one at every write: every round committed once, no bank asked twice or charged twice")


@pytest.mark.slow
@pytest.mark.fault(3)
def test_killed_at_every_write_the_same_update_is_left_out(tmp_path: Path, seen: Callable[..., None]) -> None:
    """One of four sends an update eight times as long as its own would be."""

    def made(name: str) -> GridConsortium:
        c = GridConsortium(tmp_path / name, banks=4, quorum=3, rounds=1)
        c.banks["bank-4"].act = _eightfold
        return c

    whole, kills = made("whole"), 0
    assert _in_a_process(whole.run) == 0
    (expected,) = whole.store.history.lines()
    assert list(expected.left_out) == ["bank-4"]
    for at in range(1, 1000):
        c = made(str(at))

        def run_until(at: int = at, c: GridConsortium = c) -> None:
            _dying(at)
            c.run()

        status = _in_a_process(run_until)
        assert status in (0, -signal.SIGKILL), status
        assert _in_a_process(c.run) == 0
        (line,) = c.store.history.lines()
        assert (line.left_out, line.adapter) == (expected.left_out, expected.adapter), at
        assert recompute(c.terms, line, c.store.rounds) == line.change == expected.change
        kills += status != 0
        if status == 0:
            break
    assert kills > 30
    seen(f"{kills} kills with a liar among the banks: the same update was left out every time")


def _eightfold(update: Update) -> Update:
    tensors = {name: np.float32(8) * tensor for name, tensor in update.tensors.items()}
    return replace(update, tensors=Released(tensors))


@pytest.mark.slow
@pytest.mark.fault(3)
def test_killed_again_and_again_it_still_ends(tmp_path: Path) -> None:
    """Every start gets a little further: nothing that was done is done again."""
    c = GridConsortium(tmp_path / "one", rounds=ROUNDS)
    for life in range(1, 200):

        def run_until(at: int = 9 + life // 4) -> None:
            _dying(at)
            c.run()

        if _in_a_process(run_until) == 0:
            break
    assert life > 3
    lines = c.store.history.lines()
    assert [line.round for line in lines] == list(range(1, ROUNDS + 1))
    assert all(bank.charged() == list(range(1, ROUNDS + 1)) for bank in c.banks.values())
