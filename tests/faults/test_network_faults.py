"""What a network does to the line between a bank and the coordinator: rows 6, 9 and 10 of the table of faults.

Real processes and TLS. Times of the line are shortened where the test says so; the mechanism is that of a deployment.
"""

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

pytestmark = [pytest.mark.slow, pytest.mark.long]
Seen = Callable[[str], None]
FLEET = ("pull-messages", "pull-object", "confirm-message-received", "push-messages", "push-object")


@pytest.fixture
def one_bank(tmp_path: Path) -> Iterator[Consortium]:
    made = Consortium(tmp_path, banks=("bank1",))
    made.start_server()
    yield made
    made.stop()


def reply_of(grid: Any, payload: bytes, seconds: float = 60, message_type: str = "query.echo") -> Any:
    """The one bank's answer."""
    (reply,) = exchange(grid, {grid.banks()["bank1"]: payload}, seconds, message_type).values()
    return reply


def wait_online(consortium: Consortium, grid: Any, *banks: str, seconds: float = 60) -> float:
    return wait_for(lambda: set(banks) <= set(grid.banks()), seconds, consortium.log_of(banks[0]))


@pytest.mark.fault(9)
def test_one_bad_answer_to_a_bank_loses_nothing(one_bank: Consortium, seen: Seen) -> None:
    """Every status, every route; and 500 where the coordinator has done what was asked, and only its answer is lost."""
    statuses = (500, 502, 503, 429, 413)
    cases = [(status, FLEET[(n + m) % len(FLEET)], False) for n, status in enumerate(statuses) for m in (0, 3)]
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
            wait_for(lambda said=said: said in told.read_text(), 10, one_bank.log_of("bank1"))
            line.answered.clear()
        wait_for(lambda: one_bank.status("bank1")["state"] == "online", 10)
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
        for status in (500, 502, 503, 429):
            for route in routes:
                line.answer(status, route)
                assert payload_of(reply_of(grid, route.encode())) == route.encode()
                wait_for(lambda case=(route, status): grid.banks() is not None and case in line.answered, 10)
                line.answered.clear()
        assert not told
        line.answer(503, "pull-messages", times=6)
        assert payload_of(reply_of(grid, b"x")) == b"x"
        assert "does not answer" in told[0] and "Does fedbank server start run?" in told[0]
        assert "answers again after" in told[1]
        assert one_bank.calls("bank1") == 4 * len(routes) + 1
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
    with Proxy(one_bank.public) as line, one_bank.grid() as grid:
        one_bank.start_bank_via("bank1", line.port, timeout=3)
        wait_online(one_bank, grid, "bank1")
        for number in range(3):
            if not at_work:
                line.half_open()
            began, payload = time.monotonic(), b"2" if at_work else f"{number}".encode()
            if at_work:
                (message_id,) = grid.push_messages([_message(grid, payload, "query.slow")])
                wait_for(lambda: one_bank.status("bank1")["state"] == "working", 20, one_bank.log_of("bank1"))
                line.half_open()
                wait_for(lambda sent=message_id, want=payload: _has(grid, sent, want), 40, one_bank.log_of("bank1"))
            else:
                assert payload_of(reply_of(grid, payload)) == payload
            seconds = time.monotonic() - began
            assert seconds < 30
        said = one_bank.status("bank1")["last_error"]
        assert "cannot be reached: The read operation timed out" in said or "timed out" in said
    seen(f"{'at work' if at_work else 'idle'}: answer there after {seconds:.1f} s; bank's status: {said!r}")


def _message(grid: Any, payload: bytes, message_type: str) -> Any:
    from flwr.app import ConfigRecord, Message, RecordDict

    return Message(RecordDict({"fedbank": ConfigRecord({"payload": payload})}), grid.banks()["bank1"], message_type)


def _has(grid: Any, message_id: str, payload: bytes) -> bool:
    return [payload_of(reply) for reply in grid.pull_messages([message_id])] == [payload]


@pytest.mark.fault(6)
def test_partitions_short_long_and_too_long(tmp_path: Path, seen: Seen) -> None:
    """One third of the times of a deployment: a bank counts as present for 20 s (60 s), is given up after 30 s (90 s).

    Cut for 10 s (30 s), for 25 s (75 s) and for as long as the coordinator waits; all at once, in one exchange.
    """
    banks = ("bank1", "bank2", "bank3", "bank4")
    made = Consortium(tmp_path, banks=banks)
    made.start_server()
    with Proxy(made.public) as short, Proxy(made.public) as longer, Proxy(made.public) as too_long:
        try:
            made.start_bank_via("bank1", made.public, timeout=5, presence=20)
            for bank, line in zip(banks[1:], (short, longer, too_long), strict=True):
                made.start_bank_via(bank, line.port, timeout=5, presence=20)
            with made.grid(unreachable_after_s=30.0) as grid:
                wait_online(made, grid, *banks)
                _partition(made, grid, (short, longer, too_long), seen)
        finally:
            made.stop()


def _partition(made: Consortium, grid: Any, lines: tuple[Proxy, ...], seen: Seen) -> None:
    from flwr.app import ConfigRecord, Message, RecordDict

    nodes = grid.banks()
    content = {bank: RecordDict({"fedbank": ConfigRecord({"payload": b"2"})}) for bank in nodes}
    ids = grid.push_messages([Message(content[bank], node, "query.slow") for bank, node in nodes.items()])
    waiting = dict(zip(ids, nodes, strict=True))
    wait_for(lambda: all(made.status(bank)["state"] == "working" for bank in nodes), 20, made.log_of("bank4"))
    for line in lines:
        line.cut()
    began, there, heal_at = time.monotonic(), dict[str, float](), [(10.0, lines[0]), (25.0, lines[1])]
    replies: dict[str, Any] = {}
    while waiting:
        now = time.monotonic() - began
        assert now < 120, f"no reply from {waiting}\n{made.log_of('bank4')()}"
        while heal_at and now >= heal_at[0][0]:
            heal_at.pop(0)[1].heal()
        for reply in grid.pull_messages(list(waiting)):
            bank = waiting.pop(reply.metadata.reply_to_message_id)
            replies[bank], there[bank] = reply, time.monotonic() - began
    assert there["bank1"] < 10 and not replies["bank1"].has_error()
    assert [payload_of(replies[bank]) for bank in ("bank1", "bank2", "bank3")] == [b"2"] * 3
    assert replies["bank4"].error.reason == "the bank was away for 30 s"
    assert made.status("bank4")["state"] != "online" and "cannot be reached" in made.status("bank4")["last_error"]
    seen(f"cut for 10 s of 20: its answer was there {there['bank2'] - 10:.1f} s after the end of the partition")
    seen(f"cut for 25 s of 20: {there['bank3'] - 25:.1f} s after it")
    seen(f"cut for ever: {replies['bank4'].error.reason!r} after {there['bank4']:.0f} s")
    lines[2].heal()
    back = wait_for(lambda: "bank4" in grid.banks(), 60, made.log_of("bank4"))
    fresh = exchange(grid, dict.fromkeys(grid.banks().values(), b"x"))
    assert [payload_of(reply) for reply in fresh.values()] == [b"x"] * 4
    seen(f"its end: online again after {back:.1f} s; bank's status: {made.status('bank4')['last_error']!r}")
