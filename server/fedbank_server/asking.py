"""One question to every node that is there or comes, outside of rounds. Who answered is for the answer to prove."""

import time
from collections.abc import Callable

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedbank.adapter.update import PAYLOAD, RECORD, REFUSED_CODE
from fedbank_server.speakers import Speakers, reason_of

_POLL_S = 0.1


def ask_all(
    grid: Grid,
    message_type: str,
    content: bytes,
    take: Callable[[bytes | None, str, str], bool],
    patience_s: float,
    stop: Callable[[], bool],
) -> None:
    """Send ``content`` to every node once, until ``take`` is content, ``patience_s`` seconds are over or ``stop``.

    ``take`` gets each answer's bytes, or ``None`` and what a node said instead, and which node that was, with its
    bank's name where the grid knows it; it returns whether that was all. The
    time that it takes to look at an answer is not counted: nobody's answer can use up the time of the others.
    """
    asked: set[int] = set()
    waiting: dict[str, int] = {}
    speakers = Speakers(grid)
    done, deadline = False, time.monotonic() + patience_s
    while not done and not stop() and time.monotonic() < deadline:
        new = sorted(set(grid.get_node_ids()) - asked)
        record = RecordDict({RECORD: ConfigRecord({PAYLOAD: content})})
        sent = grid.push_messages([Message(record, node, message_type) for node in new])
        waiting |= dict(zip(sent, new, strict=False))
        asked |= set(new)
        replies = list(grid.pull_messages(list(waiting))) if waiting else []
        looks = time.monotonic()
        for reply in replies:
            node = waiting.pop(reply.metadata.reply_to_message_id, None)
            who = "a node" if node is None else speakers.describe(node)
            done = take(*_read(reply), who) or done
        deadline += time.monotonic() - looks
        if not replies:
            time.sleep(_POLL_S)


def _read(reply: Message) -> tuple[bytes | None, str]:
    if reply.has_error():
        refused = reply.error.code == REFUSED_CODE
        return None, reason_of(reply.error) if refused else "it failed to answer"
    record = reply.content.config_records.get(RECORD)
    payload = record.get(PAYLOAD) if record is not None else None
    return (payload, "") if isinstance(payload, bytes) else (None, "it answered with something else")
