"""Flower's ``Grid`` in one process: no server, no sockets, no copies; the base model is loaded once.

A message runs the ``ClientApp`` when its reply is pulled: one node after the other in the caller's thread, or several
side by side on an executor's threads. What an app raises is raised to the caller of ``pull_messages``. Private parts of
Flower used here, and nowhere else in this package: ``TaskIdentity`` (read by ``Message``; ``_set_identity`` fails
loudly should an upgrade change it), ``Run``, and a message's ``_message_id``, which Flower's own grids set as well.
"""

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from uuid import uuid4

from flwr.app import Context, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

_RUN_ID, _SERVER_NODE_ID = 1, 1
PARTITION_ID = "partition-id"
"""The key of a node's number in its ``node_config``, as in Flower's own simulation engine."""


class InlineGrid(Grid):
    """A grid whose nodes are the entries of ``node_configs`` (node id to ``node_config``), all served by one app."""

    def __init__(
        self, client_app: ClientApp, node_configs: Mapping[int, UserConfig], executor: Executor | None = None
    ) -> None:
        _set_identity()
        self._client_app = client_app
        self._contexts = {
            node_id: Context(_RUN_ID, node_id, dict(config), RecordDict(), {})
            for node_id, config in node_configs.items()
        }
        self._executor = executor
        self._pending: dict[str, Message] = {}
        self._running: dict[str, Future[Message]] = {}
        self._run = Run.create_empty(_RUN_ID)

    def set_run(self, run: Run) -> None:
        """Set the run's information; only its identity is used."""
        self._run = run

    @property
    def run(self) -> Run:
        """Run information."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message from the coordinator to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """All node ids, ascending."""
        return sorted(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages; returns their new ids in order."""
        ids = []
        for message in messages:
            if message.metadata.dst_node_id not in self._contexts:
                raise ValueError(f"no node {message.metadata.dst_node_id}; nodes are {sorted(self._contexts)}")
            message_id = str(uuid4())
            message.metadata.__dict__["_message_id"] = message_id
            self._pending[message_id] = message
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Run queued messages among ``message_ids`` and return the first reply; empty if none is queued.

        One at a time, so that the caller sees every reply as soon as it exists.
        """
        wanted = set(message_ids)
        if self._executor is None:
            first = next((message_id for message_id in self._pending if message_id in wanted), None)
            return [] if first is None else [self._answer(self._pending.pop(first))]
        for message_id in [message_id for message_id in self._pending if message_id in wanted]:
            self._running[message_id] = self._executor.submit(self._answer, self._pending.pop(message_id))
        running = {message_id: future for message_id, future in self._running.items() if message_id in wanted}
        if not running:
            return []
        wait(running.values(), return_when=FIRST_COMPLETED)
        done = next(message_id for message_id, future in running.items() if future.done())
        return [self._running.pop(done).result()]

    def _answer(self, message: Message) -> Message:
        reply = self._client_app(message, self._contexts[message.metadata.dst_node_id])
        reply.metadata.__dict__["_message_id"] = str(uuid4())
        return reply

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push ``messages`` and run them in order until all are answered or ``timeout`` seconds have passed."""
        waiting = set(self.push_messages(messages))
        deadline = None if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while waiting and (deadline is None or time.monotonic() < deadline):
            for reply in self.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                replies.append(reply)
        return replies


def run_inline(server_app: ServerApp, client_app: ClientApp, num_nodes: int, executor: Executor | None = None) -> None:
    """Run both apps to the end in this process, on nodes numbered from 1; the nodes on ``executor``, if given."""
    nodes: dict[int, UserConfig] = {number + 1: {PARTITION_ID: number} for number in range(num_nodes)}
    grid = InlineGrid(client_app, nodes, executor)
    server_app(grid, Context(_RUN_ID, _SERVER_NODE_ID, {}, RecordDict(), {}))


def _set_identity() -> None:
    if not all(hasattr(TaskIdentity, name) for name in ("_run_id", "_node_id", "_task_id")):
        raise RuntimeError("flwr changed TaskIdentity; FedBank needs flwr>=1.41,<1.42")
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = _RUN_ID, _SERVER_NODE_ID, 1
