"""The in-process grid: Flower's contract as the coordinator relies on it."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedbank_simulations.inline import PARTITION_ID, InlineGrid, run_inline


def _app(log: list[Any]) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        value = message.content.config_records["in"]["value"]
        log.append((context.node_id, value))
        if value == "fail":
            raise ZeroDivisionError("inside the bank")
        reply = {"value": value, "number": context.node_config[PARTITION_ID]}
        return Message(RecordDict({"out": ConfigRecord(reply)}), reply_to=message)

    @app.query("where")
    def where(message: Message, context: Context) -> Message:
        return Message(RecordDict({"out": ConfigRecord({"value": "query"})}), reply_to=message)

    return app


def _message(node: int, value: str = "x", kind: str = "train") -> Message:
    return Message(RecordDict({"in": ConfigRecord({"value": value})}), node, kind)


def _value(reply: Message) -> Any:
    return reply.content.config_records["out"]["value"]


@pytest.fixture
def log() -> list[Any]:
    return []


@pytest.fixture
def grid(log: list[Any]) -> InlineGrid:
    return InlineGrid(_app(log), {3: {PARTITION_ID: 2}, 1: {PARTITION_ID: 0}, 2: {PARTITION_ID: 1}})


def test_nodes_are_listed_in_order(grid: InlineGrid) -> None:
    assert list(grid.get_node_ids()) == [1, 2, 3]


def test_every_message_has_an_id_of_its_own_and_a_reply_to_it(grid: InlineGrid) -> None:
    ids = list(grid.push_messages([_message(2, "a"), _message(1, "b"), _message(2, "c")]))
    assert len(set(ids)) == 3
    replies = {}
    while found := list(grid.pull_messages(ids)):
        assert len(found) == 1
        replies[found[0].metadata.reply_to_message_id] = found[0]
    assert [_value(replies[message_id]) for message_id in ids] == ["a", "b", "c"]
    assert [replies[message_id].metadata.src_node_id for message_id in ids] == [2, 1, 2]
    assert len({reply.metadata.message_id for reply in replies.values()} | set(ids)) == 6


def test_a_message_runs_once_when_pulled_and_in_the_order_pushed(grid: InlineGrid, log: list[Any]) -> None:
    ids = list(grid.push_messages([_message(3, "a"), _message(1, "b"), _message(2, "c")]))
    assert log == []
    while list(grid.pull_messages(set(ids))):
        pass
    assert log == [(3, "a"), (1, "b"), (2, "c")]
    assert list(grid.pull_messages(ids)) == []


def test_only_what_was_asked_for_is_pulled(grid: InlineGrid, log: list[Any]) -> None:
    first, second = grid.push_messages([_message(1, "a"), _message(2, "b")])
    (reply,) = grid.pull_messages([second])
    assert (_value(reply), log) == ("b", [(2, "b")])
    assert list(grid.pull_messages(["unknown"])) == []
    (reply,) = grid.pull_messages([first])
    assert _value(reply) == "a"


@pytest.mark.parametrize("node", [0, 4, -1])
def test_an_unknown_node_is_refused(grid: InlineGrid, node: int) -> None:
    with pytest.raises(ValueError, match="nodes are"):
        grid.push_messages([_message(node)])


def test_an_error_in_an_app_reaches_the_caller_and_the_others_still_run(grid: InlineGrid, log: list[Any]) -> None:
    ids = list(grid.push_messages([_message(1, "fail"), _message(2, "b")]))
    with pytest.raises(ZeroDivisionError, match="inside the bank"):
        grid.pull_messages(ids)
    (reply,) = grid.pull_messages(ids)
    assert _value(reply) == "b"
    assert log == [(1, "fail"), (2, "b")]


def test_send_and_receive(grid: InlineGrid) -> None:
    replies = list(grid.send_and_receive([_message(node, str(node)) for node in (3, 1)]))
    assert [_value(reply) for reply in replies] == ["3", "1"]
    assert list(grid.send_and_receive([_message(1)], timeout=0.0)) == []


def test_message_types_find_their_handlers(grid: InlineGrid) -> None:
    (reply,) = grid.send_and_receive([_message(1, kind="query.where")])
    assert _value(reply) == "query"


@pytest.mark.parametrize("num_nodes", [1, 4])
def test_both_apps_run_to_the_end_on_numbered_nodes(num_nodes: int, log: list[Any]) -> None:
    seen: list[Any] = []
    server = ServerApp()
    make: Callable[[int], Message] = _message

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        for reply in grid.send_and_receive([make(node) for node in grid.get_node_ids()]):
            seen.append((reply.metadata.src_node_id, reply.content.config_records["out"]["number"]))

    run_inline(server, _app(log), num_nodes)
    assert seen == [(number + 1, number) for number in range(num_nodes)]


def test_nodes_run_side_by_side_on_an_executor() -> None:
    together = threading.Barrier(3, timeout=20)  # nobody passes before all three are inside
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        together.wait()
        value = message.content.config_records["in"]["value"]
        return Message(RecordDict({"out": ConfigRecord({"value": value})}), reply_to=message)

    with ThreadPoolExecutor(3) as executor:
        grid = InlineGrid(app, {node: {PARTITION_ID: node - 1} for node in (1, 2, 3)}, executor)
        ids = list(grid.push_messages([_message(node, str(node)) for node in (3, 1, 2)]))
        replies = {}
        while found := list(grid.pull_messages(ids)):
            assert len(found) == 1
            replies[found[0].metadata.reply_to_message_id] = (_value(found[0]), found[0].metadata.src_node_id)
    assert [replies[message_id] for message_id in ids] == [("3", 3), ("1", 1), ("2", 2)]


def test_an_error_on_an_executor_reaches_the_caller_and_the_others_still_run(log: list[Any]) -> None:
    with ThreadPoolExecutor(1) as executor:
        grid = InlineGrid(_app(log), {1: {PARTITION_ID: 0}, 2: {PARTITION_ID: 1}}, executor)
        ids = list(grid.push_messages([_message(1, "fail"), _message(2, "b")]))
        with pytest.raises(ZeroDivisionError, match="inside the bank"):
            grid.pull_messages(ids)
        (reply,) = grid.pull_messages(ids)
        assert _value(reply) == "b"
