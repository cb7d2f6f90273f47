"""A Flower ``Grid`` for a ``ServerApp`` in a process of ours, against the private listener.

Flower would ship an app bundle to its own child process; this grid starts a run, claims it and lets the installed app
run on it. What it adds to Flower's own grid: it wakes up as soon as a reply is there; it lives through a SuperLink
that is away, with a new run if Flower has given up the old one; and it asks a bank again when Flower may have lost a
message. A bank that is asked twice answers with the bytes it kept.
"""

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedbank.errors import UpdateError
from fedbank_server import flower_hooks as flower
from fedbank_server.memory import return_large_blocks
from fedbank_server.runtime import LostRunError, NotYetError, RuntimeLine

_LOG = logging.getLogger("fedbank.grid")
_NODES_INTERVAL_S = 1.0
_MAX_SUPERFLUOUS = 1000
_DOUBT = timedelta(seconds=20)
"""After a pull that failed, this is how long replies may take to show that they were not lost with it."""
_NOT_ANSWERED = frozenset(
    {
        flower.ErrorCode.MESSAGE_UNAVAILABLE,
        flower.ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
        flower.ErrorCode.NODE_UNAVAILABLE,
    }
)
"""Flower's own replies in a bank's place; the grid decides itself when a bank has been away for too long."""
NOT_OURS = 101
"""Error code of a reply that is not one record with one bytes value; its text says what it was instead."""


@dataclass(slots=True)
class _Pending:
    """A message that waits for its reply: the ids under which the SuperLink has it, and replies on their way."""

    message: Message
    ids: set[str] = field(default_factory=set)
    pushed_at: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    arriving: dict[str, Any] = field(default_factory=dict)
    away_since: float | None = None

    @property
    def is_lost(self) -> bool:
        """Whether Flower holds neither the message nor a reply to it."""
        return not self.ids and not self.arriving


class CoordinatorGrid(Grid):
    """See the module. Not for several threads at once."""

    def __init__(self, line: RuntimeLine, unreachable_after_s: float, max_payload_bytes: int, wait_s: float) -> None:
        self._line = line
        self._unreachable_after_s = unreachable_after_s
        self._max_payload_bytes = max_payload_bytes
        self._wait_s = wait_s
        self._pending: dict[str, _Pending] = {}
        self._original: dict[str, str] = {}
        self._superfluous: set[str] = set()
        self._nodes: list[Any] = []
        self._nodes_at = float("-inf")

    def set_run(self, run: Run) -> None:
        """The grid finds its run itself."""

    @property
    def run(self) -> Run:
        """The run that the grid has claimed."""
        return Run.create_empty(self._line.run_id)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message from the coordinator to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """The nodes that are online, ascending."""
        return sorted(node.node_id for node in self._online())

    def banks(self) -> Mapping[str, int]:
        """The banks that are online and their nodes, as node keys say; who made an update, its signature says."""
        return {node.name: node.node_id for node in self._online()}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; their ids, in order. Returns when the SuperLink has all of them."""
        ids = []
        for message in messages:
            original = uuid4().hex
            self._pending[original] = _Pending(message)
            self._push(original)
            message.metadata.__dict__["_message_id"] = original
            ids.append(original)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """The replies that are there; waits for a moment if none is. ``message_ids`` are those of ``push_messages``.

        Each reply is fetched when it is taken, so that whoever is done with one before taking the next holds one at a
        time. A reply is an error with Flower's code ``NODE_UNAVAILABLE`` if its bank was away for
        ``unreachable_after_s``, and with ``NOT_OURS`` if it is not one record with one bytes value.
        """
        wanted = [message_id for message_id in message_ids if message_id in self._pending]
        wait_s = self._wait_s
        try:
            for reply in self._ask_again(wanted):
                wait_s = 0.0
                yield reply
            waiting = {live for original in wanted for live in self._live(original)}
            waiting |= self._superfluous
            for header, tree in self._line.pull(waiting, wait_s) if wanted else ():
                self._note(header, tree)
            for original in wanted:
                yield from self._receive(original)
        except LostRunError:
            self._renew()

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and wait for their replies, ``timeout`` seconds at most."""
        waiting = set(self.push_messages(messages))
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        replies: list[Message] = []
        while waiting and time.monotonic() < deadline:
            replies.extend(pulled := list(self.pull_messages(waiting)))
            waiting -= {reply.metadata.reply_to_message_id for reply in pulled}
        return replies

    def _note(self, header: Any, tree: Any) -> None:
        """A reply is announced; Flower hands out its header once, perhaps long before its objects are there."""
        live = header.metadata.reply_to_message_id
        original = self._original.pop(live, None)
        if original is None:
            self._superfluous.discard(live)
            self._line.confirm(header.metadata.message_id)
            return
        pending = self._pending[original]
        pending.ids.discard(live)
        if not (header.HasField("error") and header.error.code in _NOT_ANSWERED):
            pending.arriving[header.metadata.message_id] = tree

    def _receive(self, original: str) -> Iterator[Message]:
        """The reply to a message, if one of those announced is complete."""
        pending = self._pending.get(original)
        for message_id, tree in list(pending.arriving.items()) if pending else ():
            assert pending is not None
            try:
                reply = flower.inflate(tree, self._line.pull_object, self._max_payload_bytes)
            except NotYetError:
                continue
            except LookupError:  # its objects will never arrive
                del pending.arriving[message_id]
                continue
            except UpdateError as error:
                reply = Message(Error(NOT_OURS, str(error)), reply_to=pending.message)
            reply.metadata.__dict__["_reply_to_message_id"] = original
            self._forget(original)
            self._line.confirm(message_id)
            yield reply
            return

    def _ask_again(self, wanted: Iterable[str]) -> Iterator[Message]:
        """Push anew what Flower no longer holds, and what a node was handed before it reported for duty again.

        Yields an error for every bank that has been away for too long.
        """
        online = {node.node_id: node for node in self._online()}
        for original in wanted:
            pending = self._pending[original]
            node = online.get(pending.message.metadata.dst_node_id)
            if node is not None:
                pending.away_since = None
                if pending.is_lost or pending.pushed_at < self._lost_before(node):
                    _LOG.info("asking %s again", node.name)
                    self._push(original)
            elif pending.away_since is None:
                pending.away_since = time.monotonic()
            elif time.monotonic() - pending.away_since > self._unreachable_after_s:
                self._forget(original)
                reason = f"the bank was away for {self._unreachable_after_s:.0f} s"
                yield Message(Error(flower.ErrorCode.NODE_UNAVAILABLE, reason), reply_to=pending.message)

    def _lost_before(self, node: Any) -> datetime:
        """What was pushed before this, and is not answered, may be lost: with the node's process, or with a pull."""
        activated = datetime.fromisoformat(node.last_activated_at)
        doubted = self._line.doubted
        return max(activated, doubted) if datetime.now(UTC) - doubted > _DOUBT else activated

    def _push(self, original: str) -> None:
        """Push a pending message, as one of the run that the grid has now."""
        pending = self._pending[original]
        while True:
            now = datetime.now(UTC)
            message = flower.message_for_run(pending.message, self._line.run_id, self._line.task_id, now.timestamp())
            try:
                if live := self._line.push(message):
                    pending.ids.add(live)
                    self._original[live] = original
                pending.pushed_at = now
                return
            except LostRunError:
                self._renew()

    def _live(self, original: str) -> set[str]:
        return self._pending[original].ids if original in self._pending else set()

    def _renew(self) -> None:
        _LOG.warning("Flower gave up the run; going on in a new one")
        self._line.claim()
        self._original.clear()
        self._superfluous.clear()
        for pending in self._pending.values():
            pending.ids.clear()
            pending.arriving.clear()

    def _online(self) -> list[Any]:
        while time.monotonic() - self._nodes_at >= _NODES_INTERVAL_S:
            try:
                self._nodes, self._nodes_at = self._line.nodes(), time.monotonic()
            except LostRunError:
                self._renew()
        return self._nodes

    def _forget(self, original: str) -> None:
        """Nobody waits for it any more; second replies are still fetched, so that the SuperLink can drop them."""
        left = self._pending.pop(original).ids
        for live in left:
            self._original.pop(live, None)
        self._superfluous = (self._superfluous | left) if len(self._superfluous) < _MAX_SUPERFLUOUS else left


@contextmanager
def open_grid(
    address: str,
    token: str,
    certificate: Path,
    *,
    home: Path,
    patience_s: float = math.inf,
    unreachable_after_s: float = 90.0,
    max_payload_bytes: int = 32 * 1024 * 1024,
    wait_s: float = 0.5,
    stop: threading.Event | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[CoordinatorGrid]:
    """A grid on the SuperLink whose private listener is at ``address``, with the operator's ``token``.

    ``certificate`` is the coordinator's own: the private listener is trusted by that file, not by a name. ``home`` is
    Flower's folder. The grid waits ``patience_s`` for a SuperLink that is away, and tells ``say`` that it does; without
    end unless told otherwise, since a campaign of months outlives a weekend without its server.

    Raises:
        RunError: the token is refused, the SuperLink stays away, or ``stop`` was set while it was.
    """
    flower.check_flower()
    return_large_blocks()
    os.environ["FLWR_HOME"] = str(home)
    line = RuntimeLine(address, certificate, token, patience_s=patience_s, stop=stop or threading.Event(), say=say)
    try:
        line.claim()
        line.start_heartbeat()
        yield CoordinatorGrid(line, unreachable_after_s, max_payload_bytes, wait_s)
    finally:
        line.close()
