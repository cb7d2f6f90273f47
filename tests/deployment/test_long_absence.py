"""Row 2 of the table of faults with real processes: the SuperLink is away for longer than it remembers anybody."""

import contextlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from consortium import wait_for
from numeric_members import Members

pytestmark = pytest.mark.slow
PRESENCE_S, AWAY_S = 20.0, 22.0


@pytest.mark.fault(2)
def test_a_superlink_that_was_away_for_long_costs_no_round(tmp_path: Path, seen: Callable[..., None]) -> None:
    """Banks count as present for 20 s here, 60 s in a deployment, and the SuperLink is away for 22 s instead of 120 s.

    Flower gives a run up that it has not heard of for a minute, which nobody can set: what its books say of the run is
    set back while it is away.
    """
    told: list[str] = []
    c = Members(tmp_path, banks=2, rounds=3)
    try:
        c.start_server()
        for bank in c.banks:
            c.trains_for(bank, 2.0)
            c.start_bank_via(bank, c.public, timeout=5, presence=PRESENCE_S)
        with c.grid(say=told.append) as grid:
            wait_for(lambda: len(grid.banks()) == 2, 90, c.log_of("bank-1"))
            first_run = grid.run.run_id
            with c.campaign(grid) as outcome:
                wait_for(lambda: all(2 in book.charged() for book in c.books.values()), 90, c.log_of("bank-1"))
                c.kill("serve")
                gone = time.monotonic()
                wait_for(lambda: time.monotonic() - gone > AWAY_S, 60)
                for bank in c.banks:
                    assert c.status(bank)["state"] == "offline"
                    assert "cannot be reached" in c.status(bank)["last_error"]
                nobody_was_heard_of(tmp_path / "superlink.db")
                c.start_server()
                back = time.monotonic()
                resumed_s = wait_for(lambda: len(c.seen.committed) >= 2, 90, c.log_of("serve"))
                assert outcome().round == 3
            assert grid.run.run_id != first_run, "Flower gave the run up, the campaign did not"
    finally:
        c.stop()
    assert resumed_s < 90
    for book in c.books.values():
        assert book.charged() == [1, 2, 3]
        assert book.asked().count(2) <= 2 and (book.asked().count(1), book.asked().count(3)) == (1, 1)
    assert [(found.line.round, found.line.attempt) for found in c.seen.committed] == [(1, 1), (2, 1), (3, 1)]
    assert "does not answer" in told[0] and "the campaign waits for it and loses nothing" in told[0]
    seen(f"away for {back - gone:.0f} s: round committed {resumed_s:.1f} s after its return, each bank charged once")
    seen(f"coordinator reads: {told[0]!r}")


def nobody_was_heard_of(path: Path) -> None:
    """Flower's claim on the run ended long ago."""
    with contextlib.closing(sqlite3.connect(path, timeout=10)) as database, database:
        changed = database.execute("update task set active_until = '2020-01-01 00:00:00+00:00' where token is not null")
        assert changed.rowcount == 1
