"""What a network does to the line between a bank and the coordinator: rows 6, 9 and 10 of the table of faults.

Real processes and TLS. Times of the line are shortened where the test says so; the mechanism is that of a deployment.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "deployment"))

from bad_answers import BadAnswers
from consortium import Consortium, exchange, payload_of, wait_for
from proxy import Proxy

pytestmark = pytest.mark.slow
Seen = Callable[[str], None]
WORK = b"4"
"""Seconds that a bank works, and what it answers."""
STATUSES = (500, 502, 503, 429, 413)
FLEET = ("pull-messages", "pull-object", "confirm-message-received", "push-messages", "push-object")


@pytest.fixture
def one_bank(tmp_path: Path) -> Iterator[Consortium]:
    made = Consortium(tmp_path, banks=("bank1",))
    made.start_server()
    yield made
    made.stop()


def reply_of(grid: Any, payload: bytes, seconds: float = 60, message_type: str = "query.echo") -> Any:
    """The one bank's answer."""
    (reply,) = exchange(grid, {node_of(grid): payload}, seconds, message_type).values()
    return reply


def node_of(grid: Any) -> int:
    """The one bank's node: it is not there for a moment when its bank reports anew."""
    found: dict[str, int] = {}
    wait_for(lambda: bool(found.update(grid.banks()) or found), 60)
    return found["bank1"]


def wait_online(consortium: Consortium, grid: Any, *banks: str, seconds: float = 60) -> float:
    return wait_for(lambda: set(banks) <= set(grid.banks()), seconds, consortium.log_of(banks[0]))


@pytest.mark.fault(9)
def test_one_bad_answer_to_a_bank_loses_nothing(one_bank: Consortium, seen: Seen) -> None:
    """Every status, every route; and 500 where the coordinator has done what was asked, and only its answer is lost."""
    cases = [(status, route, False) for status, route in zip(STATUSES, FLEET, strict=True)]
    cases += [(500, route, True) for route in FLEET]
    longest, told = (0.0, ""), one_bank.folder / "bank1.log"
    with BadAnswers(one_bank, one_bank.public, "bank1") as line, one_bank.grid() as grid:
        one_bank.start_bank_via("bank1", line.port)
        wait_online(one_bank, grid, "bank1")
        for number, (status, route, after) in enumerate(cases):
            payload = f"{number}".encode()
            line.answer(status, route, after=after)
            began = time.monotonic()
            assert payload_of(reply_of(grid, payload)) == payload
            longest = max(longest, (time.monotonic() - began, f"{status} to {route}{' after it was done' * after}"))
            wait_for(lambda case=(route, status): case in line.answered, 30, one_bank.log_of("bank1"))
            said = f"answered {status}: spoiled {number + 1}"
            wait_for(lambda said=said: said in told.read_text(), 30, one_bank.log_of("bank1"))
            line.answered.clear()
        wait_for(lambda: one_bank.status("bank1")["state"] == "online", 30)
    seen(f"{len(cases)} bad answers, nothing lost; longest: {longest[0]:.1f} s, {longest[1]}")
    seen(f"bank's status: {one_bank.status('bank1')['last_error']!r}")


@pytest.mark.fault(9)
def test_an_answer_that_is_refused_for_ever_is_not_waited_for(one_bank: Consortium, seen: Seen) -> None:
    with BadAnswers(one_bank, one_bank.public, "bank1") as line, one_bank.grid() as grid:
        one_bank.start_bank_via("bank1", line.port)
        wait_online(one_bank, grid, "bank1")
        line.answer(413, "push-object", times=3)
        reply = reply_of(grid, b"large")
        assert reply.error.reason == "the bank's answer was refused on its way; the bank's log says by whom"
        assert "answered 413" in one_bank.status("bank1")["last_error"]
        assert payload_of(reply_of(grid, b"small")) == b"small"
        assert one_bank.calls("bank1") == 5
    seen(f"413 to every attempt: the coordinator reads {reply.error.reason!r}")


@pytest.mark.fault(9)
def test_one_bad_answer_to_the_coordinators_grid_loses_nothing(one_bank: Consortium, seen: Seen) -> None:
    routes = ("push-messages", "push-object", "pull-messages", "pull-object", "confirm-message-received", "get-nodes")
    told: list[str] = []
    with BadAnswers(one_bank, one_bank.private) as line, one_bank.grid(line.port, say=told.append) as grid:
        one_bank.start("bank", "bank1")
        wait_online(one_bank, grid, "bank1")
        for number, route in enumerate(routes):
            for status in (STATUSES[number % 4], STATUSES[(number + 1) % 4]):  # 413 is for what is too large
                line.answer(status, route)
                assert payload_of(reply_of(grid, route.encode())) == route.encode()
                wait_for(lambda case=(route, status): grid.banks() is not None and case in line.answered, 30)
                line.answered.clear()
        told.clear()  # a machine that is busy may have made one of them longer than what is worth telling
        line.answer(503, "pull-messages", times=6)
        assert payload_of(reply_of(grid, b"x")) == b"x"
        assert "does not answer" in told[0] and "Does fedbank server start run?" in told[0]
        assert "answers again after" in told[1]
        assert one_bank.calls("bank1") == 2 * len(routes) + 1
        grid._wait_s = 5.0  # the answer is there before the pull returns, and is lost with it
        line.answer(500, "pull-messages", after=True)
        began = time.monotonic()
        assert payload_of(reply_of(grid, b"1", message_type="query.slow")) == b"1"
        seen(f"a reply that was lost with its pull: asked again and there after {time.monotonic() - began:.0f} s")
    seen(f"coordinator reads: {told[0]}")


@pytest.mark.fault(10)
@pytest.mark.parametrize("at_work", [False, True], ids=["while it waits", "while it works"])
def test_a_half_open_connection_is_noticed_and_nothing_is_lost(one_bank: Consortium, seen: Seen, at_work: bool) -> None:
    """The bank waits 3 s for an answer here, 15 s in a deployment."""
    kind = "query.slow" if at_work else "query.echo"
    with Proxy(one_bank.public) as line, one_bank.grid() as grid:
        one_bank.start_bank_via("bank1", line.port, timeout=3)
        wait_online(one_bank, grid, "bank1")
        for _ in range(2):
            if not at_work:
                line.half_open()
            began = time.monotonic()
            (message_id,) = grid.push_messages([_message(node_of(grid), b"2", kind)])
            if at_work:
                wait_for(lambda: one_bank.status("bank1")["state"] == "working", 60, one_bank.log_of("bank1"))
                line.half_open()
            wait_for(lambda sent=message_id: _has(grid, sent, b"2"), 60, one_bank.log_of("bank1"))
            seconds = time.monotonic() - began
        said = one_bank.status("bank1")["last_error"]
        assert "cannot be reached" in said and "timed out" in said
    seen(f"{'at work' if at_work else 'idle'}: answer there after {seconds:.1f} s; bank's status: {said!r}")


def _message(node: int, payload: bytes, message_type: str) -> Any:
    from flwr.app import ConfigRecord, Message, RecordDict

    return Message(RecordDict({"fedbank": ConfigRecord({"payload": payload})}), node, message_type)


def _has(grid: Any, message_id: str, payload: bytes) -> bool:
    return [payload_of(reply) for reply in grid.pull_messages([message_id])] == [payload]


@pytest.mark.fault(6)
def test_a_partition_that_the_coordinator_waits_for_costs_nothing(tmp_path: Path, seen: Seen) -> None:
    """A bank counts as present for 20 s here, 60 s in a deployment: cut for 10 s (30 s) and for 22 s (75 s)."""
    there: dict[str, float] = {}
    with partitioned(tmp_path, 2) as (made, grid, lines):
        waiting, began = cut_at_work(made, grid, lines), time.monotonic()
        heal_at = list(zip((10.0, 22.0), lines, strict=True))
        while waiting:
            now = time.monotonic() - began
            assert now < 150, f"no reply from {waiting}\n{made.log_of('bank3')()}"
            while heal_at and now >= heal_at[0][0]:
                heal_at.pop(0)[1].heal()
            for reply in grid.pull_messages(list(waiting)):
                assert payload_of(reply) == WORK
                there[waiting.pop(reply.metadata.reply_to_message_id)] = time.monotonic() - began
    assert there["bank1"] < there["bank2"], "whoever is not cut off does not wait for who is"
    seen(f"cut for 10 s of 20: its answer was there {there['bank2'] - 10:.1f} s after the end of the partition")
    seen(f"cut for 22 s of 20: {there['bank3'] - 22:.1f} s after it")


@pytest.mark.long
@pytest.mark.fault(6)
def test_a_bank_that_is_cut_off_for_too_long_is_given_up_and_comes_back(tmp_path: Path, seen: Seen) -> None:
    """Given up after 30 s on top of the 20 s for which it counts as present; 90 s and 60 s in a deployment."""
    replies: dict[str, Any] = {}
    with partitioned(tmp_path, 1) as (made, grid, (line,)):
        nodes, waiting, began = dict(grid.banks()), cut_at_work(made, grid, [line]), time.monotonic()
        while waiting:
            assert time.monotonic() - began < 150, made.log_of("bank2")()
            for reply in grid.pull_messages(list(waiting)):
                replies[waiting.pop(reply.metadata.reply_to_message_id)] = reply
        assert payload_of(replies["bank1"]) == WORK
        assert replies["bank2"].error.reason == "the bank was away for 30 s"
        assert made.status("bank2")["state"] != "online" and "cannot be reached" in made.status("bank2")["last_error"]
        seen(f"cut for ever: {replies['bank2'].error.reason!r} after {time.monotonic() - began:.0f} s")
        line.heal()
        back = wait_for(lambda: "bank2" in grid.banks(), 60, made.log_of("bank2"))
        fresh = exchange(grid, dict.fromkeys(nodes.values(), b"x"))
        assert [payload_of(reply) for reply in fresh.values()] == [b"x", b"x"]
        seen(f"its end: online again after {back:.1f} s; bank's status: {made.status('bank2')['last_error']!r}")


@contextlib.contextmanager
def partitioned(folder: Path, count: int) -> Iterator[tuple[Consortium, Any, list[Proxy]]]:
    """A consortium, its grid, and the lines of all banks but the first: each has one of its own."""
    banks = tuple(f"bank{number}" for number in range(1, count + 2))
    made = Consortium(folder, banks=banks)
    with contextlib.ExitStack() as stack:
        stack.callback(made.stop)
        made.start_server()
        lines = [stack.enter_context(Proxy(made.public)) for _ in range(count)]
        for bank, port in zip(banks, (made.public, *(line.port for line in lines)), strict=True):
            made.start_bank_via(bank, port, timeout=5, presence=20)
        grid = stack.enter_context(made.grid(unreachable_after_s=30.0))
        wait_online(made, grid, *banks)
        yield made, grid, lines


def cut_at_work(made: Consortium, grid: Any, lines: list[Proxy]) -> dict[str, str]:
    """All banks work when the lines are cut; the messages that they work at, and who does."""
    nodes = dict(grid.banks())
    ids = grid.push_messages([_message(node, WORK, "query.slow") for node in nodes.values()])
    wait_for(lambda: all(made.status(bank)["state"] == "working" for bank in nodes), 60, made.log_of("bank2"))
    for line in lines:
        line.cut()
    return dict(zip(ids, nodes, strict=True))
