"""A campaign with banks that are slow, late, absent, hostile or started anew: who counts, who is asked."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict
from grid_consortium import adapter_after
from numeric_bank import key_of, numeric_app

from fedbank.adapter.state import Released
from fedbank.adapter.update import PAYLOAD, RECORD, UPDATE, Update
from fedbank.errors import RunError
from fedbank.membership.terms import DeadlineRule
from fedbank.sealing.envelope import seal
from fedbank_server.history import recompute
from fedbank_server.nodes import CoordinatorKeys, Timing
from fedbank_server.snapshot import BankState

SOON = DeadlineRule(factor=1.0, floor_s=0.5, ceiling_s=0.5)
Make = Callable[..., Any]


def test_three_banks_three_rounds(make_consortium: Make) -> None:
    c = make_consortium()
    state = c.run()
    assert (state.round, state.digest()) == (3, adapter_after(c, [["bank-1", "bank-2", "bank-3"]] * 3))
    for bank in c.banks.values():
        assert (bank.asked(), bank.charged()) == ([1, 2, 3], [1, 2, 3])
    lines = c.store.history.lines()
    assert [line.round for line in lines] == [1, 2, 3]
    assert [line.adapter for line in lines[:2]] == [line.base for line in lines[1:]]
    assert lines[-1].adapter == state.digest() and set(lines[-1].accepted) == set(c.banks)
    assert recompute(c.terms, lines[-1], c.store.rounds) == lines[-1].change
    assert c.run().digest() == state.digest()  # nothing is left to do
    assert c.status.phase == "committed" and {bank.state for bank in c.status.banks.values()} == {BankState.SENT}


@pytest.mark.fault(7)
def test_at_the_deadline_a_quorum_is_enough_and_what_comes_later_is_late(make_consortium: Make) -> None:
    c = make_consortium(quorum=2, deadline=DeadlineRule(factor=1.0, floor_s=2.0, ceiling_s=2.0), rounds=2)

    def after_the_first_commit(update: Update) -> Update:
        while not c.seen.committed:
            time.sleep(0.005)
        return update

    c.banks["bank-3"].act = after_the_first_commit
    state = c.run()
    assert state.digest() == adapter_after(c, [["bank-1", "bank-2"], list(c.banks)])
    first, second = c.store.history.lines()
    assert (first.missing, second.missing) == (["bank-3"], [])
    assert [(r["bank"], r["check"]) for r in second.refused] == [("bank-3", "late")]
    late = [status for status in c.seen.statuses if status.banks["bank-3"].state is BankState.LATE]
    assert late and "before its round was committed" in late[0].banks["bank-3"].reason
    assert next(status for status in c.seen.statuses if status.deadline).deadline > c.seen.statuses[0].updated


def test_when_all_are_in_nobody_waits_for_the_deadline(make_consortium: Make) -> None:
    c = make_consortium(quorum=2, deadline=DeadlineRule(), rounds=2)
    began = time.monotonic()
    assert c.run().digest() == adapter_after(c, [list(c.banks)] * 2)
    assert time.monotonic() - began < 10


@pytest.mark.fault(8)
def test_below_the_quorum_nothing_changes_and_the_campaign_pauses_with_the_names(make_consortium: Make) -> None:
    c = make_consortium(quorum=3, deadline=SOON, rounds=1, max_attempts=2)
    c.grid.vanish(c.nodes["bank-3"])
    with pytest.raises(RunError, match=r"at least 3 of the 3.*attempt 2 of 2.*bank-3 \(offline since 20") as error:
        c.run()
    assert "adapter is unchanged" in str(error.value) and "paused" in str(error.value)
    assert c.store.load(c.terms.adapter) is None
    assert [record.attempt for record in c.seen.aborted] == [1, 2]
    assert c.status.phase == "paused" and "bank-3" in c.status.last_error
    c.restart("bank-3")
    state = c.run()
    assert state.digest() == adapter_after(c, [list(c.banks)])
    assert {name: bank.asked() for name, bank in c.banks.items()} == {name: [1] for name in c.banks}
    (line,) = c.store.history.lines()
    assert line.attempt == 3 and [aborted["attempt"] for aborted in line.aborted] == [1, 2]


def _fail(update: Update) -> Update:
    raise ValueError("customer Li Wei asked about a loan")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38])
@pytest.mark.fault(13)
def test_values_that_nobody_can_average_do_not_reach_the_adapter(
    make_consortium: Make, value: float, seen: Callable[..., None]
) -> None:
    c = make_consortium(quorum=2, rounds=1)
    hostile = c.banks["bank-2"]

    def spoil(reply: Message) -> Message:
        if (reply.metadata.src_node_id, reply.metadata.message_type) != (c.nodes["bank-2"], "train"):
            return reply
        (kept,) = hostile.folder.glob("round-1-*")
        update = Update.from_bytes(kept.read_bytes(), c.terms.adapter)
        tensors = {name: tensor.copy() for name, tensor in update.tensors.items()}
        next(iter(tensors.values()))[0, 0] = value
        content = replace(update, tensors=Released(tensors)).to_bytes()
        sealed = seal(UPDATE, "bank-2", c.terms.context, content, key_of("bank-2"))
        return _with(reply, RecordDict({RECORD: ConfigRecord({PAYLOAD: sealed})}))

    c.grid.change = spoil
    state = c.run()
    assert state.digest() == adapter_after(c, [["bank-1", "bank-3"]])
    assert all(np.isfinite(tensor).all() for tensor in state.adapter.values())
    status = c.status.banks["bank-2"]
    assert status.state is BankState.REFUSED
    assert ("no longer than" if value == 1e38 else "finite") in status.reason
    seen(f"{value}: {status.reason!r}")


def _long(update: Update) -> Update:
    tensors = {name: tensor * 1e6 for name, tensor in update.tensors.items()}
    return replace(update, tensors=tensors)  # type: ignore[arg-type]


HOSTILE: dict[str, tuple[Callable[[Update], Update], str]] = {
    "a bank whose training fails": (_fail, "refusal"),
    "norm times a million": (_long, "norm"),
    "another bank's name": (lambda update: replace(update, bank="bank-1"), "bank"),
    "another base": (lambda update: replace(update, base_digest="0" * 64), "base"),
    "more steps": (lambda update: replace(update, num_steps=50), "steps"),
}


@pytest.mark.parametrize(("act", "check"), HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.fault(15)
def test_one_bad_bank_does_not_end_the_campaign(
    make_consortium: Make, act: Callable[[Update], Update], check: str
) -> None:
    c = make_consortium(quorum=2, rounds=2)
    c.banks["bank-2"].act = act
    state = c.run()
    assert state.digest() == adapter_after(c, [["bank-1", "bank-3"]] * 2)
    refused = [(line["bank"], line["check"]) for line in c.store.history.lines()[0].refused]
    assert refused == [("bank-2", check)]
    assert c.banks["bank-2"].asked() == [1, 2]  # once in each round
    assert "Li Wei" not in (c.folder / "campaign" / "history.jsonl").read_text() + str(c.status)


def test_a_refusing_bank_is_asked_again_in_the_next_attempt(make_consortium: Make) -> None:
    c = make_consortium(rounds=1, max_attempts=3)
    calls = []

    def at_first(update: Update) -> Update:
        calls.append(1)
        return update if len(calls) > 1 else _fail(update)

    c.banks["bank-2"].act = at_first
    assert c.run().digest() == adapter_after(c, [list(c.banks)])
    assert [bank.asked() for bank in c.banks.values()] == [[1], [1, 1], [1]]
    assert "the bank could not finish the round" in c.store.history.lines()[0].aborted[0]["missing"]["bank-2"]


REPLIES: dict[str, tuple[Callable[[Message], Message], str]] = {
    "no record": (lambda reply: _with(reply, RecordDict({})), "format"),
    "another record": (lambda reply: _with(reply, RecordDict({"x": ConfigRecord({PAYLOAD: b"1"})})), "format"),
    "metrics": (lambda reply: _with(reply, RecordDict({RECORD: MetricRecord({PAYLOAD: 1.0})})), "format"),
    "text": (lambda reply: _with(reply, RecordDict({RECORD: ConfigRecord({PAYLOAD: "text"})})), "format"),
    "garbage": (lambda reply: _with(reply, RecordDict({RECORD: ConfigRecord({PAYLOAD: b"\x93" * 999})})), "format"),
    "oversize": (lambda reply: _with(reply, RecordDict({RECORD: ConfigRecord({PAYLOAD: bytes(5 << 20)})})), "size"),
    "an error of the app": (lambda reply: _with(reply, Error(2, "Trace\nback\x1b[31m" * 90)), "error"),
}


def _with(reply: Message, content: Any) -> Message:
    """A reply to the same message with other content."""
    replaced = Message(content, reply_to=reply)
    replaced.metadata.__dict__["_reply_to_message_id"] = reply.metadata.reply_to_message_id
    return replaced


def _copy(reply: Message) -> RecordDict:
    """The coordinator takes the bytes out of what it gets."""
    return RecordDict({RECORD: ConfigRecord({PAYLOAD: reply.content.config_records[RECORD][PAYLOAD]})})


@pytest.mark.parametrize(("change", "check"), REPLIES.values(), ids=REPLIES.keys())
@pytest.mark.fault(14)
def test_a_reply_that_is_no_update_is_refused(
    make_consortium: Make, change: Callable[[Message], Message], check: str
) -> None:
    c = make_consortium(quorum=2, rounds=1)
    target = c.nodes["bank-2"]

    def spoil(reply: Message) -> Message:
        hit = reply.metadata.src_node_id == target and reply.metadata.message_type == "train"
        return change(reply) if hit else reply

    c.grid.change = spoil
    assert c.run().digest() == adapter_after(c, [["bank-1", "bank-3"]])
    (refused,) = c.store.history.lines()[0].refused
    assert (refused["bank"], refused["check"]) == ("bank-2", check)
    assert len(refused["reason"]) < 400 and refused["reason"].isprintable()


@pytest.mark.fault(12)
def test_a_spoofed_sender_gains_nothing(make_consortium: Make) -> None:
    """bank-1's signed bytes in the reply to bank-2: identity comes from the signature, so bank-2 sent nothing."""
    c = make_consortium(quorum=2, rounds=1)
    seen: dict[int, Any] = {}
    ready = threading.Event()

    def swap(reply: Message) -> Message:
        if reply.metadata.message_type != "train":
            return reply
        seen[reply.metadata.src_node_id] = _copy(reply)
        if reply.metadata.src_node_id == c.nodes["bank-1"]:
            ready.set()
        if reply.metadata.src_node_id == c.nodes["bank-2"]:
            ready.wait(5)
            return _with(reply, seen[c.nodes["bank-1"]])
        return reply

    c.grid.change = swap
    c.run()
    (line,) = c.store.history.lines()
    assert "bank-2" not in line.accepted and set(line.accepted) == {"bank-1", "bank-3"}


@pytest.mark.fault(11)
def test_an_old_answer_to_who_is_there_seats_nobody(make_consortium: Make) -> None:
    """A node that repeats another bank's earlier answer does not get that bank's requests."""
    c = make_consortium(rounds=2)
    recorded: list[Any] = []

    def record(reply: Message) -> Message:
        if reply.metadata.message_type == "query.enrol":
            if reply.metadata.src_node_id == c.nodes["bank-1"] and not recorded:
                recorded.append(_copy(reply))
            if reply.metadata.src_node_id == 99:
                return _with(reply, recorded[0])
        return reply

    c.grid.change = record
    c.banks["bank-2"].seconds = 0.3
    threading.Timer(0.15, lambda: c.grid.start(99, numeric_app(c.banks["bank-1"]))).start()
    c.run()
    assert ("replay" in {refused.check for _, refused in c.seen.refusals}) and 99 in {n for _, n, _ in c.grid.pushed}
    assert not [1 for _, node, kind in c.grid.pushed if node == 99 and kind == "train"]


@pytest.mark.parametrize("node", ["the same node", "another node"])
@pytest.mark.fault(5)
def test_a_bank_that_is_started_anew_in_a_round_is_asked_again_and_charged_once(
    make_consortium: Make, node: str
) -> None:
    c = make_consortium(rounds=1)
    c.banks["bank-2"].seconds = 0.4

    def restart() -> None:
        if node == "another node":
            c.grid.vanish(c.nodes["bank-2"])
            c.nodes["bank-2"] = 77
        c.restart("bank-2")

    threading.Timer(0.15, restart).start()
    assert c.run().digest() == adapter_after(c, [list(c.banks)])
    assert (c.banks["bank-2"].asked(), c.banks["bank-2"].charged()) == ([1, 1], [1])
    assert c.banks["bank-1"].asked() == c.banks["bank-3"].asked() == [1]


def test_a_bank_that_appears_late_joins_the_round(make_consortium: Make) -> None:
    c = make_consortium(rounds=1)
    app = c.grid._apps[c.nodes["bank-3"]]
    c.grid.vanish(c.nodes["bank-3"])
    threading.Timer(0.3, lambda: c.grid.start(c.nodes["bank-3"], app)).start()
    assert c.run().digest() == adapter_after(c, [list(c.banks)])
    assert any(status.banks["bank-3"].state is BankState.OFFLINE for status in c.seen.statuses)


def test_a_lost_reply_is_asked_for_again_after_its_time(make_consortium: Make) -> None:
    c = make_consortium(rounds=1)
    lost: list[int] = []

    def lose(reply: Message) -> Message | None:
        if reply.metadata.message_type == "train" and reply.metadata.src_node_id == c.nodes["bank-1"] and not lost:
            lost.append(1)
            return None
        return reply

    c.grid.change = lose
    timing = Timing(poll_interval_s=0.002, nodes_every_s=0.02, enrol_every_s=0.1, message_timeout_s=0.4)
    assert c.run(timing).digest() == adapter_after(c, [list(c.banks)])
    assert (c.banks["bank-1"].asked(), c.banks["bank-1"].charged()) == ([1, 1], [1])


@pytest.mark.parametrize("quorum", [None, 2])
@pytest.mark.fault(17)
def test_a_bank_that_is_revoked_in_a_round_does_not_count_and_is_not_waited_for(
    make_consortium: Make, quorum: int | None
) -> None:
    c = make_consortium(rounds=1, quorum=quorum)
    c.banks["bank-2"].seconds = 0.4
    began = time.monotonic()

    def find_key(bank: str) -> Any:
        revoked = bank == "bank-1" and time.monotonic() - began > 0.2
        return None if revoked else c.keys.find_key(bank)

    assert c.run(keys=CoordinatorKeys(c.keys.own, find_key)).digest() == adapter_after(c, [["bank-2", "bank-3"]])
    assert any(status.banks["bank-1"].state is BankState.SENT for status in c.seen.statuses)
    assert c.status.banks["bank-1"].state is BankState.REVOKED


def test_a_request_that_the_coordinator_did_not_sign_is_not_read(make_consortium: Make) -> None:
    c = make_consortium(rounds=1, quorum=3, max_attempts=1)
    forged = CoordinatorKeys(key_of("somebody"), c.keys.find_key)
    with pytest.raises(RunError, match="to enrol"):
        c.run(Timing(poll_interval_s=0.002, nodes_every_s=0.02, enrol_every_s=0.1, enrol_timeout_s=0.5), keys=forged)
    assert {refused.reason for _, refused in c.seen.refusals} == {
        "refused: not a request that this bank understands or has agreed to"
    }
    assert all(bank.asked() == [] for bank in c.banks.values())


@pytest.mark.fault(7)
def test_the_deadline_follows_from_the_rounds_before(make_consortium: Make) -> None:
    c = make_consortium(rounds=3, quorum=2, deadline=DeadlineRule(factor=4.0, floor_s=0.2, ceiling_s=30.0))
    for bank in c.banks.values():
        bank.seconds = 0.2
    c.run()
    allowed = {}
    for status in c.seen.statuses:
        if status.deadline and status.round not in allowed:
            allowed[status.round] = (
                datetime.fromisoformat(status.deadline).timestamp() - datetime.fromisoformat(status.updated).timestamp()
            )
    assert allowed[1] > 25
    assert 0.2 < allowed[3] < 5
