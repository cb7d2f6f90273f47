"""One question to every node that is there or comes, outside of rounds. Who answered is for the answer to prove."""

import time
from collections.abc import Callable

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedbank.adapter.update import PAYLOAD, RECORD, REFUSED_CODE

_POLL_S = 0.1


def ask_all(
    grid: Grid,
    message_type: str,
    content: bytes,
    take: Callable[[bytes | None, str], bool],
    patience_s: float,
    stop: Callable[[], bool],
) -> None:
    """Send ``content`` to every node once, until ``take`` is content, ``patience_s`` seconds are over or ``stop``.

    ``take`` gets each answer's bytes, or ``None`` and what a node said instead; it returns whether that was all. The
    time that it takes to look at an answer is not counted: nobody's answer can use up the time of the others.
    """
    asked: set[int] = set()
    waiting: set[str] = set()
    done, deadline = False, time.monotonic() + patience_s
    while not done and not stop() and time.monotonic() < deadline:
        new = sorted(set(grid.get_node_ids()) - asked)
        record = RecordDict({RECORD: ConfigRecord({PAYLOAD: content})})
        waiting |= set(grid.push_messages([Message(record, node, message_type) for node in new]))
        asked |= set(new)
        replies = list(grid.pull_messages(waiting)) if waiting else []
        looks = time.monotonic()
        for reply in replies:
            waiting.discard(reply.metadata.reply_to_message_id)
            done = take(*_read(reply)) or done
        deadline += time.monotonic() - looks
        if not replies:
            time.sleep(_POLL_S)


def _read(reply: Message) -> tuple[bytes | None, str]:
    if reply.has_error():
        refused = reply.error.code == REFUSED_CODE
        return None, str(reply.error.reason)[:200] if refused else "a node failed to answer"
    record = reply.content.config_records.get(RECORD)
    payload = record.get(PAYLOAD) if record is not None else None
    return (payload, "") if isinstance(payload, bytes) else (None, "a node answered with something else")
