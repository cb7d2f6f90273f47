"""Whatever happens to the process, the disk or the other process: what was said to be kept is there, once."""

import os
import resource
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from bank_records import NOW, bytes_of, die, exchange, forked, in_a_process, open_records, status_of, with_exchanges

from fedbank.serving.store.conversations import Conversations
from fedbank.serving.store.database import RecordsError
from fedbank.serving.store.jobs import Asked, JobLimits, Jobs

ME = "a" * 32
KILLED = -9


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file of this process grows beyond (RLIMIT_FSIZE): what a quota does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _ids(conversations: Conversations) -> list[str]:
    return [one.request_id for one in conversations.of_customer("C-10023")]


def _is_whole(folder: Path) -> bool:
    raw = sqlite3.connect(folder / "records.sqlite")
    try:
        return bool(raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)])
    finally:
        raw.close()


def test_a_full_disk_ends_in_plain_words_and_loses_nothing(tmp_path: Path) -> None:
    records, conversations = with_exchanges(tmp_path, "C-10023")
    size = max(path.stat().st_size for path in tmp_path.iterdir())
    with files_of_at_most(size + 4096), pytest.raises(RecordsError, match="disk that is full") as full:
        for number in range(1000):
            conversations.add(exchange(f"more-{number}", answer="x" * 2000))
    assert "Nothing that was stored is lost" in str(full.value) and "xxx" not in str(full.value)
    kept = _ids(conversations)
    conversations.add(exchange("after"))
    assert _ids(conversations) == sorted([*kept, "after"]) and "r-0" in kept
    assert records.erase("C-10023").rows == len(kept) + 1
    assert _is_whole(tmp_path)


def test_a_full_disk_stops_a_job_where_it_is(tmp_path: Path) -> None:
    records = open_records(tmp_path)
    jobs = Jobs(records)
    job = jobs.submit(ME, [Asked("C-1", f"q{number}") for number in range(20)], NOW)
    size = max(path.stat().st_size for path in tmp_path.iterdir())
    recorded = 0
    with files_of_at_most(size), pytest.raises(RecordsError, match="disk that is full"):
        while item := jobs.claim("w", NOW):
            recorded += jobs.record(item, "a" * 3000, "r", NOW)
    assert recorded < 20 and jobs.progress(job, ME, NOW).answered == recorded
    jobs.resume("w")
    while item := jobs.claim("w", NOW):
        assert jobs.record(item, "b", "r", NOW)
    assert jobs.progress(job, ME, NOW).answered == 20


def test_a_store_that_another_process_holds_is_said_to_be_busy(tmp_path: Path) -> None:
    with_exchanges(tmp_path, "C-10023")
    conversations = Conversations(open_records(tmp_path, patience_s=0.05))
    holder = sqlite3.connect(tmp_path / "records.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(RecordsError, match="another process holds") as busy:
        conversations.add(exchange("r-2"))
    assert busy.value.retry_after_s
    assert _ids(conversations) == ["r-0"], "who reads does not wait"
    holder.execute("ROLLBACK")
    holder.close()
    conversations.add(exchange("r-2"))
    assert _ids(conversations) == ["r-0", "r-2"]


def test_a_disk_that_is_read_only_is_said_to_be(tmp_path: Path) -> None:
    records, conversations = with_exchanges(tmp_path, "C-10023")
    with records.reading() as store:
        store.connection.exec_driver_sql("PRAGMA query_only=ON")
    with pytest.raises(RecordsError, match="cannot be written") as refused:
        conversations.add(exchange("r-2"))
    assert "SQLITE_READONLY" in str(refused.value)


def test_many_threads_of_one_process_lose_nothing(tmp_path: Path) -> None:
    conversations = Conversations(open_records(tmp_path))

    def work(name: int) -> None:
        for number in range(5):
            conversations.add(exchange(f"r-{name}-{number}"))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(_ids(conversations)) == 30


def _at_once(*works: Callable[[], object]) -> list[int]:
    """The exit statuses of ``works``, each in a process of its own, begun together."""
    reading, writing = os.pipe()

    def waits(work: Callable[[], object]) -> None:
        os.close(writing)
        os.read(reading, 1)  # until nobody has the other end
        work()

    children = [forked(partial(waits, work)) for work in works]
    os.close(writing)
    statuses = [status_of(child) for child in children]
    os.close(reading)
    return statuses


@pytest.mark.slow
def test_two_processes_make_one_store_and_answer_each_item_once(tmp_path: Path) -> None:
    def serve(name: str) -> None:
        jobs = Jobs(open_records(tmp_path))
        while item := jobs.claim(name, NOW):
            assert jobs.record(item, f"{name} {item.number}", name, NOW)

    def converse(name: str) -> None:
        conversations = Conversations(open_records(tmp_path))
        for number in range(25):
            conversations.add(exchange(f"{name}-{number:02}"))

    assert _at_once(lambda: converse("a"), lambda: converse("b")) == [0, 0]
    records = open_records(tmp_path)
    job = Jobs(records).submit(ME, [Asked("C-1", f"q{number}") for number in range(40)], NOW)
    records.close()
    assert _at_once(lambda: serve("a"), lambda: serve("b")) == [0, 0]
    records = open_records(tmp_path)
    assert len(_ids(Conversations(records))) == 50
    items = Jobs(records).items(job, ME)
    assert [item.answer for item in items] == [f"{item.request_id} {item.number}" for item in items]
    assert Jobs(records).progress(job, ME, NOW).answered == 40
    assert _is_whole(tmp_path)


def _dying(at: int) -> None:
    """SIGKILL this process at its ``at``-th commit, by turns just before and just after it."""
    import sqlalchemy

    count = 0

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object) -> object:
            nonlocal count
            count += 1
            if count == at and at % 2:
                die()
            answer = real(*args)
            if count == at:
                die()
            return answer

        return call

    dialect = sqlalchemy.dialects.sqlite.pysqlite.SQLiteDialect_pysqlite
    dialect.do_commit = counted(dialect.do_commit)  # type: ignore[assignment,method-assign]


@pytest.mark.slow
def test_killed_at_every_commit_the_store_keeps_what_it_said_it_kept(tmp_path: Path) -> None:
    kills = 0
    for at in range(1, 100):
        folder = tmp_path / str(at)
        folder.mkdir()
        said, saying = os.pipe()

        def work(folder: Path = folder, at: int = at, saying: int = saying) -> None:
            _dying(at)
            conversations = Conversations(open_records(folder))
            for number in range(8):
                conversations.add(exchange(f"r-{number}"))
                os.write(saying, bytes([number]))

        status = in_a_process(work)
        os.close(saying)
        kept = [f"r-{number}" for number in os.read(said, 100)]
        os.close(said)
        assert status in (0, KILLED)
        found = _ids(Conversations(open_records(folder)))
        assert found[: len(kept)] == kept and len(found) - len(kept) in (0, 1), at
        kills += status == KILLED
        if status == 0:
            break
    assert kills >= 10


@pytest.mark.slow
def test_killed_at_every_commit_a_job_goes_on_and_answers_each_item_once(tmp_path: Path) -> None:
    kills = 0
    for at in range(1, 100):
        folder = tmp_path / str(at)
        folder.mkdir()
        records = open_records(folder)
        limits = JobLimits(max_attempts=3)
        job = Jobs(records, limits).submit(ME, [Asked("C-1", f"q{number}") for number in range(5)], NOW)
        records.close()

        def work(dying: int | None, folder: Path = folder, limits: JobLimits = limits) -> None:
            if dying:
                _dying(dying)
            jobs = Jobs(open_records(folder), limits)
            jobs.resume("serve")
            while item := jobs.claim("serve", NOW):
                assert not item.answer
                jobs.record(item, f"{'first' if dying else 'second'} {item.number}", "r", NOW)

        status = in_a_process(lambda at=at: work(at))
        assert status in (0, KILLED)
        before = {item.number: item.answer for item in Jobs(open_records(folder)).items(job, ME) if item.answer}
        assert in_a_process(lambda: work(None)) == 0
        after = Jobs(open_records(folder))
        assert after.progress(job, ME, NOW).answered == 5, at
        answers = {item.number: item.answer for item in after.items(job, ME)}
        assert answers | before == answers, "what was answered before the kill was not answered again"
        kills += status == KILLED
        if status == 0:
            break
    assert kills >= 12


@pytest.mark.slow
def test_killed_while_it_erases_a_second_erasure_leaves_nothing(tmp_path: Path) -> None:
    for at in range(1, 6):
        folder = tmp_path / str(at)
        folder.mkdir()
        records, _ = with_exchanges(folder, "C-10023", "C-7")
        pseudonym = records.customer("C-10023").encode()
        records.close()

        def work(folder: Path = folder, at: int = at) -> None:
            _dying(at)
            open_records(folder).erase("C-10023")

        assert in_a_process(work) in (0, KILLED)
        records = open_records(folder)
        records.erase("C-10023")
        assert pseudonym not in bytes_of(folder)
        assert len(Conversations(records).of_customer("C-7")) == 1
