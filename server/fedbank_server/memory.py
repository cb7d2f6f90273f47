"""Memory that is free again is the system's again."""

import ctypes
import gc
from typing import Any

from sqlalchemy import Engine, event

_M_MMAP_THRESHOLD = -3
_LARGE = 1 << 20
_VERY_LARGE = 1 << 25


def return_large_blocks() -> None:
    """From now on the C library gives every block of 1 MiB or more back when it is freed (mallopt(3), glibc).

    By itself it learns from the first large block that it had better keep the next ones, up to 32 MiB each and in
    every thread: a coordinator of many banks would hold gigabytes that nobody uses. Other C libraries do not learn.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)


def forget(size: int) -> None:
    """A message of ``size`` bytes was dealt with: if it was a very large one, nothing of it stays.

    Requests and messages of HTTP libraries and of Flower refer to themselves, and would hold what they carried until
    Python looks for such circles by itself.
    """
    if size > _VERY_LARGE:
        gc.collect()


def keep_nothing(engine: Engine) -> None:
    """From now on SQLite connections of ``engine`` keep little of what went through them.

    Python keeps prepared statements, and each of those the last value that was bound to it: an update in every
    connection that ever stored one. Flower gives each connection 64 MB for pages and maps 256 MB of the file; a round's
    large objects, read and written once, gain nothing from either.
    """
    event.listen(engine, "do_connect", _without_statements)
    event.listen(engine, "connect", _without_pages)
    engine.dispose()  # those that are open


def _without_statements(dialect: Any, record: Any, words: Any, named: dict[str, Any]) -> None:
    named["cached_statements"] = 0


def _without_pages(connection: Any, record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA cache_size = -1000")
    cursor.execute("PRAGMA mmap_size = 0")
    cursor.close()
