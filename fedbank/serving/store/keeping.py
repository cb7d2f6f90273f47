"""Answers that end together are kept together: one commit of the store for all of them, then one of the evidence.

Each commit waits for the disk, and an answer is told only after both. Whatever ends while one batch is written makes
the next: many a second cost no more waits than a few.
"""

import asyncio
import copy
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field

from fedbank.serving.store.audit import AnswerAudit, Answered
from fedbank.serving.store.conversations import Conversations, Exchange, RowError
from fedbank.serving.store.vault import VaultError

MAX_BATCH = 64


@dataclass(frozen=True, slots=True)
class Ended:
    """An answer for the store (``None``: nothing was shown) and its entry for the evidence."""

    exchange: Exchange | None
    entry: Answered
    kept: Future[None] = field(default_factory=Future, compare=False, repr=False)


class Keeper:
    """``worker`` runs what blocks. Of several threads one writes at a time: store and log have one writer anyway."""

    def __init__(self, conversations: Conversations, audit: AnswerAudit, worker: Executor) -> None:
        self._conversations, self._audit, self._worker = conversations, audit, worker
        self._waiting = deque[Ended]()
        self._writing = threading.Lock()

    async def keep(self, ended: Ended) -> None:
        """Return once it is in the store and in the evidence, both on disk. Whoever is cancelled here cancels nothing.

        Raises:
            RecordsError, EvidenceError: it is not in one of them; it must not be told as if it were.
        """
        ended.kept.set_running_or_notify_cancel()
        self._waiting.append(ended)
        self._worker.submit(self._write)
        await asyncio.wrap_future(ended.kept)

    def _write(self) -> None:
        """Everything that waits now; nothing, if an earlier call has taken it along."""
        with self._writing:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_BATCH))]
            stored = self._stored(batch)
            try:
                self._audit.answered(*(one.entry for one in stored))
            except Exception as error:  # noqa: BLE001  (whatever it is, they wait for it)
                _fail(stored, error)
                return
        for one in stored:
            one.kept.set_result(None)

    def _stored(self, batch: Sequence[Ended]) -> Sequence[Ended]:
        """Those that are in the store now, or have nothing for it: no evidence speaks of what the bank has not."""
        try:
            self._conversations.add(*(one.exchange for one in batch if one.exchange is not None))
        except (RowError, VaultError) as error:  # one of them, or its customer's key: the others are kept
            if len(batch) > 1:
                return [kept for one in batch for kept in self._stored([one])]
            _fail(batch, error)
        except Exception as error:  # noqa: BLE001  (as above)
            _fail(batch, error)
        else:
            return batch
        return []


def _fail(batch: Sequence[Ended], error: Exception) -> None:
    for one in batch:
        one.kept.set_exception(copy.copy(error))  # each its own traceback
