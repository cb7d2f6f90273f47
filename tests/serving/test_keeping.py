"""Answers that end together: each is told once it is in the store and in the evidence, and fails for itself alone."""

import asyncio
import os
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from bank_records import exchange, open_records
from sqlalchemy import Engine, event

from fedbank.evidence.errors import EvidenceError
from fedbank.evidence.log import EvidenceLog
from fedbank.sealing.keys import SigningKey
from fedbank.serving.store.audit import AnswerAudit, Answered
from fedbank.serving.store.conversations import Conversations, RowError
from fedbank.serving.store.database import RecordsError
from fedbank.serving.store.keeping import MAX_BATCH, Ended, Keeper
from fedbank.serving.store.records import Records
from fedbank.serving.store.vault import VaultError

KEY = SigningKey.derived("keeping")


@dataclass
class Kept:
    """A keeper with its store and its log; nothing is written before ``gate`` is open."""

    folder: Path
    records: Records
    log: EvidenceLog
    keeper: Keeper
    gate: threading.Event

    def stored(self) -> list[str]:
        with closing(sqlite3.connect(self.folder / "records.sqlite")) as connection:
            return [row[0] for row in connection.execute("SELECT request_id FROM fedbank_answers ORDER BY request_id")]

    def evident(self) -> list[str]:
        return [entry.object for entry in self.log.page(0, 1000)]

    async def all_of(self, *ended: Ended) -> list[BaseException | None]:
        """What each of them was told; they end while something else is written."""
        waiting = asyncio.gather(*map(self.keeper.keep, ended), return_exceptions=True)
        await asyncio.sleep(0)
        self.gate.set()
        return await waiting


@contextmanager
def keeping(folder: Path, patience_s: float = 10.0) -> Iterator[Kept]:
    records = open_records(folder, patience_s=patience_s)
    log, gate = EvidenceLog(folder / "evidence.jsonl", "bank-a/serving", KEY), threading.Event()
    with ThreadPoolExecutor(1) as worker:
        worker.submit(gate.wait)
        try:
            yield Kept(folder, records, log, Keeper(Conversations(records), AnswerAudit(log), worker), gate)
        finally:
            gate.set()
    records.close()


def ended(number: int, customer: str = "C-10023", *, text: bool = True) -> Ended:
    name = f"r-{number:03}"
    entry = Answered(name, "a" * 32, "b" * 32, "c" * 64, {"redact": "1"}, 12, 8)
    return Ended(exchange(name, customer) if text else None, entry)


def names(*numbers: int) -> list[str]:
    return [f"r-{number:03}" for number in numbers]


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """How often the store and this program's own files were waited for."""
    counted, fsync = {"store": 0, "files": 0}, os.fsync

    def committed(_: object) -> None:
        counted["store"] += 1

    def synced(descriptor: int) -> None:
        counted["files"] += 1
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    event.listen(Engine, "commit", committed)
    yield counted
    event.remove(Engine, "commit", committed)


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (10, 1), (MAX_BATCH, 1), (MAX_BATCH + 1, 2)])
def test_answers_that_end_together_wait_once_for_the_store_and_once_for_the_evidence(
    tmp_path: Path, waits: dict[str, int], count: int, expected: int
) -> None:
    with keeping(tmp_path) as kept:
        kept.log.append("release-stable", "spring-1", "the first", "service")
        before = dict(waits)
        told = asyncio.run(kept.all_of(*(ended(number, f"C-{number % 3}") for number in range(count))))
        assert {name: waits[name] - before[name] for name in waits} == {"store": expected, "files": expected}
        assert told == [None] * count
        assert kept.stored() == kept.evident()[1:] == names(*range(count))


def test_an_answer_of_which_nothing_was_shown_is_in_the_evidence_alone(tmp_path: Path) -> None:
    with keeping(tmp_path) as kept:
        assert asyncio.run(kept.all_of(ended(0, text=False), ended(1))) == [None, None]
        assert (kept.stored(), kept.evident()) == (names(1), names(0, 1))


def test_nobody_is_told_before_both_are_on_disk(tmp_path: Path) -> None:
    async def told_early(kept: Kept) -> tuple[bool, list[str]]:
        waiting = asyncio.ensure_future(kept.keeper.keep(ended(0)))
        for _ in range(20):
            await asyncio.sleep(0)
        early = waiting.done()
        kept.gate.set()
        await waiting
        return early, kept.stored() + kept.evident()

    with keeping(tmp_path) as kept:
        assert asyncio.run(told_early(kept)) == (False, names(0, 0))


def test_one_that_cannot_be_kept_fails_alone(tmp_path: Path) -> None:
    with keeping(tmp_path) as kept:
        Conversations(kept.records).add(exchange("r-001"))
        told = asyncio.run(kept.all_of(*(ended(number) for number in range(4))))
        assert [type(one) for one in told] == [type(None), RowError, type(None), type(None)]
        assert (kept.stored(), kept.evident()) == (names(0, 1, 2, 3), names(0, 2, 3))


def test_a_customer_whose_key_was_changed_takes_nobody_along(tmp_path: Path) -> None:
    with keeping(tmp_path) as kept:
        Conversations(kept.records).add(exchange("r-100", "C-bad"))
        with closing(sqlite3.connect(tmp_path / "records.sqlite")) as connection, connection:
            connection.execute("UPDATE fedbank_customers SET wrapped_key = zeroblob(60)")
        told = asyncio.run(kept.all_of(ended(0), ended(1, "C-bad"), ended(2)))
        assert [type(one) for one in told] == [type(None), VaultError, type(None)]
        assert (kept.stored(), kept.evident()) == (names(0, 2, 100), names(0, 2))


def test_a_store_that_another_holds_keeps_nobody_and_there_is_no_evidence_of_them(tmp_path: Path) -> None:
    with keeping(tmp_path, patience_s=0.2) as kept:
        with closing(sqlite3.connect(tmp_path / "records.sqlite")) as other:
            other.execute("BEGIN IMMEDIATE")
            told = asyncio.run(kept.all_of(ended(0), ended(1)))
        assert [type(one) for one in told] == [RecordsError, RecordsError]
        assert all(isinstance(one, RecordsError) and one.retry_after_s for one in told) and told[0] is not told[1]
        assert (kept.stored(), kept.evident()) == ([], [])
        assert asyncio.run(kept.all_of(ended(2))) == [None]


def test_a_log_that_was_cut_keeps_nobody(tmp_path: Path) -> None:
    with keeping(tmp_path) as kept:
        kept.log.append("answer", "r-100", "", "bank-a")
        (tmp_path / "evidence.jsonl").write_bytes(b"")
        told = asyncio.run(kept.all_of(ended(0), ended(1)))
        assert [type(one) for one in told] == [EvidenceError, EvidenceError]


def test_whoever_stops_waiting_is_kept_all_the_same(tmp_path: Path) -> None:
    async def leave(kept: Kept) -> None:
        waiting = [asyncio.ensure_future(kept.keeper.keep(ended(number))) for number in range(2)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
        kept.gate.set()
        told = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10)
        assert isinstance(told[0], asyncio.CancelledError) and told[1] is None

    with keeping(tmp_path) as kept:
        asyncio.run(leave(kept))
        assert kept.stored() == kept.evident() == names(0, 1)
