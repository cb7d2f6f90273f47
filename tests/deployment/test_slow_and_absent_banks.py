"""Rows 7 and 8 of the table of faults with real processes: a bank that is slow, and then too few banks."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from consortium import wait_for
from numeric_members import Members

from fedbank.errors import RunError
from fedbank.membership.terms import DeadlineRule
from fedbank_server.snapshot import BankState, CampaignStatus

pytestmark = pytest.mark.slow


@pytest.fixture
def members(tmp_path: Path) -> Iterator[Members]:
    rule = DeadlineRule(factor=2.0, floor_s=2.0, ceiling_s=60.0)
    made = Members(tmp_path, banks=3, quorum=2, rounds=4, deadline=rule, max_attempts=8)
    try:
        made.start_server()
        made.start_banks()
        made.wait_online()
        yield made
    finally:
        made.stop()


@pytest.mark.fault(7, 8)
def test_a_slow_bank_is_not_waited_for_and_below_the_quorum_nothing_changes(
    members: Members, seen: Callable[..., None]
) -> None:
    """Round 1 tells how long a round takes. In round 2 bank-3 trains ten times as long as the others, and until the
    round is committed without it; its answer comes in round 3. In round 4 bank-3 is alone."""
    c, commits = members, members.seen.committed
    for bank in c.banks:
        c.trains_for(bank, 0.2)

    def at_a_commit() -> None:
        if len(commits) == 1:
            c.trains_for("bank-3", 2.0)
            c.hold("bank-3")
        elif len(commits) == 2:
            c.hold("bank-2")  # so that there still is a round 3 when bank-3 comes
            c.go_on("bank-3")

    def when_late(status: CampaignStatus) -> None:
        if status.banks["bank-3"].state is BankState.LATE:
            c.trains_for("bank-3", 0.2)
            c.go_on("bank-2")

    c.seen.on_commit, c.seen.on_status = at_a_commit, when_late
    with c.grid() as grid:
        wait_for(lambda: len(grid.banks()) == 3, 60)
        c.rounds(grid, until=3)
        first, second, third = (found.line for found in commits)
        assert set(first.accepted) == {"bank-1", "bank-2", "bank-3"}
        assert (set(second.accepted), second.missing) == ({"bank-1", "bank-2"}, ["bank-3"])
        assert [(one["bank"], one["check"]) for one in third.refused] == [("bank-3", "late")]
        late = next(s.banks["bank-3"] for s in c.seen.statuses if s.banks["bank-3"].state is BankState.LATE)
        assert "before its round was committed; it is to round 2, 2 is done" in late.reason
        seen(f"committed without it after {commits[1].seconds:.1f} s; its status: late, {late.reason!r}", row=7)
        seen(below_the_quorum(c, grid), row=8)
    assert all(book.charged() == [1, 2, 3, 4] for book in c.books.values()), "whatever came to nothing in between"
    lines = [found.line for found in commits]
    assert [line.base for line in lines[1:]] == [line.adapter for line in lines[:-1]]


def below_the_quorum(c: Members, grid: Any) -> str:
    """Round 4 with one bank of three, and with all; what was seen."""
    for bank in ("bank-1", "bank-2"):
        c.leave(bank)
    coordinator, before = c.coordinator, c.coordinator.store.load(c.terms.adapter)
    coordinator.terms, began = replace(c.terms, max_attempts=1), time.monotonic()
    with pytest.raises(RunError, match=r"at least 2 of the 3 banks to round 4, got \d in attempt 1 of 1") as paused:
        c.rounds(grid)
    paused_s, said = time.monotonic() - began, str(paused.value)
    assert "bank-1 (offline since" in said and "bank-2 (offline since" in said
    assert "The global adapter is unchanged. The campaign is paused: see to these banks, then run it again." in said
    after = coordinator.store.load(c.terms.adapter)
    assert before is not None and after is not None and (after.round, after.digest()) == (3, before.digest())
    assert coordinator.status.phase == "paused" and coordinator.status.last_error in said
    coordinator.terms, began = c.terms, time.monotonic()
    for bank in ("bank-1", "bank-2"):
        c.start("bank", bank)
    c.wait_online()
    assert c.rounds(grid).round == 4
    return (
        f"paused after {paused_s:.1f} s: {said!r}; with the banks back, round 4 after {time.monotonic() - began:.1f} s"
    )
