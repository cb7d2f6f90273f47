"""A bank's store for tests: the file, the keys, and what is said in it."""

import os
import signal
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fedbank.serving.store.conversations import Conversations, Exchange
from fedbank.serving.store.database import Database
from fedbank.serving.store.records import Records
from fedbank.serving.store.vault import RecordsKey

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = RecordsKey(bytes(range(32)))
QUESTION, ANSWER = "我的尾号 4417 的卡被冻结了怎么办?", "Please visit a branch with your identity card."


def open_records(folder: Path, key: RecordsKey = KEY, patience_s: float = 10.0) -> Records:
    return Records(Database(folder / "records.sqlite", patience_s=patience_s), key)


def exchange(request_id: str = "r-1", customer: str = "C-10023", hours: float = 0.0, **changed: str) -> Exchange:
    """One exchange, ``hours`` after ``NOW``."""
    texts = {"question": QUESTION, "answer": ANSWER, "topic": "cards", "language": "zh"} | changed
    return Exchange(request_id, NOW + timedelta(hours=hours), "s-1", "a" * 64, customer, **texts)


def with_exchanges(folder: Path, *customers: str) -> tuple[Records, Conversations]:
    """A store with one exchange for each of ``customers``: r-0, r-1 …"""
    records = open_records(folder)
    conversations = Conversations(records)
    for number, customer in enumerate(customers):
        conversations.add(exchange(f"r-{number}", customer))
    return records, conversations


def bytes_of(folder: Path) -> bytes:
    """Everything in the store's files."""
    return b"".join(path.read_bytes() for path in sorted(folder.glob("records.sqlite*")))


def in_a_process(work: Callable[[], object]) -> int:
    """The exit status of ``work`` in a forked process (negative: the signal it died of)."""
    return status_of(forked(work))


def forked(work: Callable[[], object]) -> int:
    """The process that does ``work``."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001  (whatever it is, the fork ends here)
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child


def status_of(child: int) -> int:
    """How a forked process ended."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die() -> None:
    """kill -9 to this process."""
    os.kill(os.getpid(), signal.SIGKILL)
