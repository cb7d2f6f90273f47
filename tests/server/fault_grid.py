"""A grid whose nodes come, go and come back, for tests: every node a thread, every message can be lost or changed."""

import threading
import time
from collections.abc import Callable, Iterable
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fedbank_simulations.inline import InlineGrid

Change = Callable[[Message], Message | None]
"""What becomes of a reply on its way; ``None``: it is lost."""


class FaultGrid(InlineGrid):
    """Nodes by number, each with an app of its own; ``pull_messages`` never waits, as Flower's own grid."""

    def __init__(self, apps: dict[int, ClientApp]) -> None:
        super().__init__(ClientApp(), {})
        self._apps: dict[int, ClientApp] = {}
        self._ready: dict[str, Message] = {}
        self._lock = threading.Lock()
        self.change: Change = lambda reply: reply
        self.pushed: list[tuple[float, int, str]] = []
        for node, app in apps.items():
            self.start(node, app)

    def start(self, node: int, app: ClientApp) -> None:
        """The node appears, or is there again with another app."""
        self._contexts[node] = Context(1, node, {}, RecordDict(), {})
        self._apps[node] = app

    def vanish(self, node: int) -> None:
        """The node is gone; what it is working at is lost."""
        del self._contexts[node], self._apps[node]

    def deliver(self, reply: Message) -> None:
        """Put a reply there, as somebody who can forge one does."""
        with self._lock:
            self._ready[reply.metadata.reply_to_message_id] = reply

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Start to work at once, each message on a thread."""
        ids = []
        for message in messages:
            node, message_id = message.metadata.dst_node_id, str(uuid4())
            message.metadata.__dict__["_message_id"] = message_id
            self.pushed.append((time.monotonic(), node, message.metadata.message_type))
            ids.append(message_id)
            app = self._apps.get(node)
            if app is None:
                self.deliver(Message(Error(5, "node unavailable"), reply_to=message))
                continue
            threading.Thread(target=self._work, args=(app, message, node), daemon=True).start()
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that are there."""
        with self._lock:
            return [self._ready.pop(message_id) for message_id in list(message_ids) if message_id in self._ready]

    def _work(self, app: ClientApp, message: Message, node: int) -> None:
        reply = app(message, Context(1, node, {}, RecordDict(), {}))
        reply.metadata.__dict__["_message_id"] = str(uuid4())
        changed = self.change(reply)
        if changed is not None and self._apps.get(node) is app:
            self.deliver(changed)
