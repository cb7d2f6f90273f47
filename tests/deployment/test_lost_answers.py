"""What Flower has handed out and nobody got: it hands out a message once, so the round has to notice by itself."""

import contextlib
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

from consortium import exchange, payload_of, wait_for
from numeric_members import Members
from proxy import Proxy

from fedbank_server import coordinator_grid
from fedbank_server.post import TRAIN

pytestmark = pytest.mark.slow
ROUNDS = 3


@pytest.fixture
def members(tmp_path: Path) -> Iterator[Members]:
    """One bank, which is not started."""
    made = Members(tmp_path, banks=1, rounds=ROUNDS)
    try:
        made.start_server()
        yield made
    finally:
        made.stop()


def calls(members: Members, where: str = "") -> int:
    """Calls of rounds in the SuperLink's books, which forget a call when they hand out its answer."""
    with contextlib.closing(sqlite3.connect(members.folder / "superlink.db", timeout=10)) as database:
        query = f"select count(*) from message_ins where message_type = ? {where}"
        return int(database.execute(query, (TRAIN,)).fetchone()[0])


def within(condition: Callable[[], bool], seconds: float) -> bool:
    with contextlib.suppress(AssertionError):
        wait_for(condition, seconds)
    return condition()


def lose(line: Proxy) -> None:
    """What is held while the line is cut never arrives, and its connections end; new ones work."""
    line.half_open()
    line.reset()
    line.heal()


class LossyGrid:
    """The coordinator's grid; ``around`` gets what pushes a round's call, until ``lost``."""

    def __init__(self, grid: Any, around: Callable[[Callable[[], list[str]]], list[str]]) -> None:
        self._grid, self._around, self.lost = grid, around, threading.Event()
        self.pulls_since: float | None = None

    def push_messages(self, messages: Any) -> list[str]:
        sent = list(messages)
        if self.lost.is_set() or sent[0].metadata.message_type != TRAIN:
            return list(self._grid.push_messages(sent))
        return self._around(lambda: list(self._grid.push_messages(sent)))

    def pull_messages(self, message_ids: Any) -> Any:
        self.pulls_since = time.monotonic()
        try:
            return list(self._grid.pull_messages(message_ids))
        finally:
            self.pulls_since = None

    def waits(self) -> bool:
        """Whether its pull has been out for so long that it is at the SuperLink."""
        since = self.pulls_since
        return since is not None and time.monotonic() - since > 0.5

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)


@pytest.mark.fault(10)
def test_a_call_that_is_lost_with_the_banks_pull_is_sent_again(members: Members, seen: Callable[..., None]) -> None:
    with Proxy(members.public) as line, members.grid() as grid:
        members.start_bank_via("bank-1", line.port, timeout=5)
        wait_for(lambda: "bank-1" in grid.banks(), 60, members.log_of("bank-1"))
        lost_at, commits = [0.0], list[float]()

        def around(push: Callable[[], list[str]]) -> list[str]:
            time.sleep(0.5)  # the bank pulls again by now, and its pull spends nearly all of its time at the SuperLink
            line.cut()
            ids = push()
            if within(lambda: calls(members, "and delivered_at != ''") == 1, 5):
                lossy.lost.set()
            lose(line)
            lost_at[:] = [time.monotonic()]
            return ids

        lossy = LossyGrid(grid, around)
        members.seen.on_commit = lambda: commits.append(time.monotonic())
        assert members.rounds(lossy, seconds=80).round == ROUNDS
        assert lossy.lost.is_set()
    book, said = members.books["bank-1"], members.status("bank-1")["last_error"]
    assert book.asked() == book.charged() == list(range(1, ROUNDS + 1))
    assert "cannot be reached" in said
    later_s = next(commit for commit in commits if commit > lost_at[0]) - lost_at[0]
    seen(f"a call lost with the bank's pull: its round committed {later_s:.1f} s later; bank's status: {said!r}")


@pytest.mark.fault(9)
def test_an_update_that_is_lost_with_the_coordinators_pull_is_asked_for_again_and_charged_once(
    members: Members, monkeypatch: pytest.MonkeyPatch, seen: Callable[..., None]
) -> None:
    """Flower forgets a call with handing out its answer, and says so when it is asked for it once more."""
    monkeypatch.setattr(coordinator_grid, "_DOUBT", timedelta(hours=1))
    book = members.books["bank-1"]
    with Proxy(members.private) as line, members.grid(line.port, wait_s=5.0) as grid:
        members.trains_for("bank-1", 2.0)
        members.start("bank", "bank-1")
        wait_for(lambda: "bank-1" in grid.banks(), 60, members.log_of("bank-1"))
        lost_in, lost_at, commits = [0], [0.0], list[float]()

        def spoil(number: int) -> None:
            wait_for(lambda: number in book.charged() and lossy.waits(), 60, members.log_of("bank-1"))
            line.cut()
            if calls(members) == 1 and within(lambda: calls(members) == 0, 15):
                lossy.lost.set()
                lost_in[:], lost_at[:] = [number], [time.monotonic()]
            lose(line)

        def around(push: Callable[[], list[str]]) -> list[str]:
            threading.Thread(target=spoil, args=(len(members.seen.committed) + 1,), daemon=True).start()
            return push()

        lossy = LossyGrid(grid, around)
        members.seen.on_commit = lambda: commits.append(time.monotonic())
        assert members.rounds(lossy, seconds=80).round == ROUNDS
        assert lossy.lost.is_set()
    assert book.charged() == list(range(1, ROUNDS + 1))
    assert book.asked().count(lost_in[0]) >= 2
    assert [found.line.attempt for found in members.seen.committed] == [1] * ROUNDS
    later_s = next(commit for commit in commits if commit > lost_at[0]) - lost_at[0]
    seen(f"an update lost with the coordinator's pull: its round committed {later_s:.1f} s later, charged once")


@pytest.mark.fault(24)
def test_a_reply_that_flower_takes_for_delivered_is_asked_for_again(
    members: Members, monkeypatch: pytest.MonkeyPatch, seen: Callable[..., None]
) -> None:
    """What Flower's database holds if it fails between handing out a reply and forgetting its call. The coordinator
    asks again 3 s after a pull that failed here, 20 s in a deployment."""
    monkeypatch.setattr(coordinator_grid, "_DOUBT", timedelta(seconds=3))
    with Proxy(members.private) as line, members.grid(line.port) as grid:
        members.start("bank", "bank-1")
        wait_for(lambda: "bank-1" in grid.banks(), 60, members.log_of("bank-1"))
        content = RecordDict({"fedbank": ConfigRecord({"payload": b"who is there?"})})
        waiting = list(grid.push_messages([Message(content, grid.banks()["bank-1"], "query.enrol")]))
        wait_for(lambda: taken_for_delivered(members) == 1, 60, members.log_of("bank-1"))
        assert not list(grid.pull_messages(waiting))
        line.refuse()
        threading.Timer(1.0, line.accept).start()
        answered_s = wait_for(lambda: bool(list(grid.pull_messages(waiting))), 45, members.log_of("bank-1"))
    seen(f"a reply handed out and not forgotten: asked for again, there after {answered_s:.1f} s")


def taken_for_delivered(members: Members) -> int:
    """How many replies were not, so far."""
    with contextlib.closing(sqlite3.connect(members.folder / "superlink.db", timeout=10)) as database, database:
        return database.execute("update message_res set delivered_at = 'now' where delivered_at = ''").rowcount


def reports(grid: Any) -> set[str]:
    """When the banks that are online have reported for duty."""
    return {node.last_activated_at for node in grid._line.nodes()}


@pytest.mark.fault(10)
def test_a_message_is_not_handed_to_a_pull_whose_connection_is_gone(
    members: Members, seen: Callable[..., None]
) -> None:
    """The SuperLink holds a pull for up to 2 s; its bank is back by another connection when the message comes."""
    longest = 0.0
    with Proxy(members.public) as line, members.grid() as grid:
        members.start_bank_via("bank-1", line.port)
        wait_for(lambda: "bank-1" in grid.banks(), 60, members.log_of("bank-1"))
        for number in range(6):
            before = reports(grid)
            time.sleep(0.3)  # it pulls again
            line.reset()
            while not within(lambda before=before: bool(reports(grid) - before), 3):
                line.reset()  # it was between two pulls, and has not noticed
            began = time.monotonic()
            (reply,) = exchange(grid, {grid.banks()["bank-1"]: f"{number}".encode()}, 30, "query.enrol").values()
            longest = max(longest, time.monotonic() - began)
            assert reply.has_error() or payload_of(reply)
    seen(f"six connections reset, a message as soon as the bank is back: answered within {longest:.1f} s")
