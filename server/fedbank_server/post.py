"""Messages that are out: what was asked of which node, until the answer is here or too old to be waited for."""

from collections.abc import Iterator
from dataclasses import dataclass

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedbank.adapter.update import PAYLOAD, RECORD

ENROL, TRAIN = "query.enrol", "train"


@dataclass(frozen=True, slots=True)
class Asked:
    """One message: ``kind`` ``query.enrol`` or ``train``, to ``node``, not waited for after ``expires``.

    For ``train``: the ``bank`` that is asked, the ``round``, the ``instance`` of the bank's app. For ``query.enrol``:
    the question's ``nonce``, and its ``number`` among all questions.
    """

    kind: str
    node: int
    expires: float
    bank: str = ""
    round: int = 0
    instance: str = ""
    nonce: str = ""
    number: int = 0


class Post:
    """Sends on a Flower grid and hands out replies as they come. No reply is waited for: callers look again."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._out: dict[str, Asked] = {}

    def send(self, asked: Asked, payload: bytes, lifetime_s: float) -> None:
        """One record with one value: a message of Flower costs a request for every object in it."""
        content = RecordDict({RECORD: ConfigRecord({PAYLOAD: payload})})
        message = Message(content, asked.node, asked.kind, ttl=lifetime_s)
        for message_id in self._grid.push_messages([message]):
            if message_id:  # a grid that could not take it gives none
                self._out[message_id] = asked

    def receive(self, now: float) -> Iterator[tuple[Asked, Message]]:
        """Replies that are here, each once, with what was asked; messages that expired are forgotten."""
        for message_id in [message_id for message_id, asked in self._out.items() if asked.expires <= now]:
            del self._out[message_id]
        if not self._out:
            return
        for reply in self._grid.pull_messages(list(self._out)):
            asked = self._out.pop(reply.metadata.reply_to_message_id, None)
            if asked is not None:
                yield asked, reply

    def is_open(self, kind: str, node: int) -> bool:
        """Whether ``node`` has a message of this kind that it has not answered."""
        return any(asked.kind == kind and asked.node == node for asked in self._out.values())
