"""What must not be in a log whatever arrives: a traceback, a line that somebody else made up, a control character."""

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedbank.supervision import log_to

_LINE = re.compile(r"\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2},\d{3} [A-Z]+ fedbank\S* .*")


@contextmanager
def watched_log(path: Path) -> Iterator[None]:
    """Log to ``path`` as a deployed process does; ``AssertionError`` at the end if anything is wrong with it."""
    logger, raises, died = logging.getLogger("fedbank"), logging.raiseExceptions, list[str]()
    before, hook = list(logger.handlers), threading.excepthook
    log_to(path)
    threading.excepthook = lambda about: died.append(repr(about.exc_value))
    try:
        yield
    finally:
        for handler in set(logger.handlers) - set(before):
            logger.removeHandler(handler)
            handler.close()
        logging.raiseExceptions, threading.excepthook = raises, hook
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    wrong = [line for line in lines if not _LINE.fullmatch(line) or not line.isprintable()]
    ends = sorted({line for line in wrong if not line.startswith((" ", "Traceback"))} or wrong[:3])
    assert not wrong, f"{len(wrong)} of {len(lines)} lines of the log, such as {ends}"
    assert not died, f"a thread ended: {died[:3]}"
