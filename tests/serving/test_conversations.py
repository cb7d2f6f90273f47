"""The bank's own store of conversations: found again, sealed at rest, erased and purged for good."""

import sqlite3
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from bank_records import ANSWER, KEY, NOW, QUESTION, bytes_of, exchange, open_records, with_exchanges

from fedbank.serving.store.conversations import Conversations, UnknownRequestError
from fedbank.serving.store.database import Database, RecordsError
from fedbank.serving.store.feedback import FeedbackDesk
from fedbank.serving.store.jobs import Asked, Jobs
from fedbank.serving.store.records import Records
from fedbank.serving.store.vault import RecordsKey


def test_what_was_kept_is_found_again_after_a_restart(tmp_path: Path) -> None:
    records, conversations = with_exchanges(tmp_path, "C-10023", "C-7", "C-10023")
    conversations.add(exchange("early", hours=-1))
    records.close()
    again = Conversations(open_records(tmp_path))
    assert again.find("r-0", "C-10023") == exchange("r-0")
    assert [one.request_id for one in again.of_customer("C-10023")] == ["early", "r-0", "r-2"]
    assert again.of_customer("nobody") == []


@pytest.mark.parametrize(
    "text", ["", "x" * 100_000, "a\0b", "\ud800", "'; DROP TABLE fedbank_answers; --", "𠀀🙂\u202e"]
)
def test_any_text_is_kept_as_it_is(text: str, tmp_path: Path) -> None:
    conversations = Conversations(open_records(tmp_path))
    conversations.add(exchange(question=text, answer=text))
    assert conversations.find("r-1", "C-10023").question == text.replace("\ud800", "?")


@pytest.mark.parametrize(("request_id", "customer"), [("r-1", "C-7"), ("r-9", "C-10023"), ("", ""), ("r-1", "c-10023")])
def test_nobody_finds_what_is_another_customers(request_id: str, customer: str, tmp_path: Path) -> None:
    conversations = Conversations(open_records(tmp_path))
    conversations.add(exchange())
    with pytest.raises(UnknownRequestError, match="answer of this customer"):
        conversations.find(request_id, customer)


def test_a_request_id_is_used_once(tmp_path: Path) -> None:
    conversations = Conversations(open_records(tmp_path))
    conversations.add(exchange())
    with pytest.raises(RecordsError, match="Expected a new request id"):
        conversations.add(exchange(customer="C-7", answer="another"))
    assert conversations.find("r-1", "C-10023").answer == ANSWER
    assert conversations.of_customer("C-7") == []


def test_no_text_and_no_customer_lies_open_in_the_files(tmp_path: Path) -> None:
    records, _ = with_exchanges(tmp_path, "C-10023")
    desk, jobs = FeedbackDesk(records), Jobs(records)
    desk.give("r-0", "C-10023", helpful=False, comment="not my branch")
    desk.review("r-0", "f" * 32, NOW, approve=True, corrected="call 95588")
    job = jobs.submit("f" * 32, [Asked("C-10023", QUESTION)], NOW)
    item = jobs.claim("w", NOW)
    assert item and jobs.record(item, ANSWER, "r-5", NOW) and jobs.items(job, "f" * 32)
    content = bytes_of(tmp_path)
    for secret in (QUESTION, ANSWER, "C-10023", "not my branch", "call 95588", "cards", "4417", "95588"):
        assert secret.encode() not in content
    for shown in (repr(exchange()), repr(item), repr(desk.listed("approved")), repr(records), repr(KEY)):
        assert not any(secret in shown for secret in ("4417", "C-10023", "branch", "95588", KEY._raw.hex()))


def test_the_file_is_its_owners_only(tmp_path: Path) -> None:
    records, _ = with_exchanges(tmp_path, "C-10023")
    with records.reading():
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert set(modes.values()) == {0o600} and "records.sqlite-wal" in modes


def test_an_erased_customer_has_no_key_no_row_and_no_byte_left(tmp_path: Path) -> None:
    records, conversations = with_exchanges(tmp_path, "C-10023", "C-7", "C-10023")
    FeedbackDesk(records).give("r-0", "C-10023", helpful=True, comment="thanks")
    job = Jobs(records).submit("f" * 32, [Asked("C-10023", QUESTION), Asked("C-7", QUESTION)], NOW)
    with sqlite3.connect(tmp_path / "records.sqlite") as raw:
        mine = (records.customer("C-10023"),)
        tables = ("fedbank_answers", "fedbank_feedback", "fedbank_job_items")
        sealed = [row[0] for t in tables for row in raw.execute(f"SELECT sealed FROM {t} WHERE customer = ?", mine)]
        sealed += [raw.execute("SELECT wrapped_key FROM fedbank_customers WHERE customer = ?", mine).fetchone()[0]]
    raw.close()
    assert len(sealed) == 5 and all(one in bytes_of(tmp_path) for one in sealed)
    removed = records.erase("C-10023")
    assert (removed.rows, removed.keys) == (4, 1)
    content = bytes_of(tmp_path)
    assert mine[0].encode() not in content and not any(one in content or one[:24] in content for one in sealed)
    assert conversations.of_customer("C-10023") == [] and FeedbackDesk(records).listed("candidate") == []
    assert Jobs(records).progress(job, "f" * 32, NOW).erased == 1
    assert [one.request_id for one in conversations.of_customer("C-7")] == ["r-1"], "the others keep theirs"
    assert records.erase("C-10023").rows == 0, "once more is no error"


def test_a_customer_who_comes_back_gets_another_key(tmp_path: Path) -> None:
    records, conversations = with_exchanges(tmp_path, "C-10023")
    backup = (tmp_path / "backup").resolve()
    with sqlite3.connect(tmp_path / "records.sqlite") as raw, sqlite3.connect(backup) as copy:
        raw.backup(copy)
        row = raw.execute("SELECT * FROM fedbank_answers").fetchone()
    records.erase("C-10023", NOW)
    conversations.add(exchange("r-9", hours=1))
    raw.execute("INSERT INTO fedbank_answers VALUES (?, ?, ?, ?)", row)
    raw.commit()
    raw.close()
    copy.close()
    with pytest.raises(RecordsError, match="as this bank sealed it"):
        conversations.find("r-0", "C-10023")
    assert conversations.find("r-9", "C-10023").answer == ANSWER


def test_an_answer_that_began_before_an_erasure_is_kept_by_no_process(tmp_path: Path) -> None:
    records, _ = with_exchanges(tmp_path, "C-10023")
    elsewhere = Conversations(open_records(tmp_path))
    records.erase("C-10023", NOW)
    elsewhere.add(exchange("r-7"), exchange("r-8", "C-2"))
    assert elsewhere.of_customer("C-10023") == [] and len(elsewhere.of_customer("C-2")) == 1
    assert records.customer("C-10023").encode() not in bytes_of(tmp_path), "no key either, and the mark names nobody"
    elsewhere.add(exchange("r-9", hours=1))
    assert len(elsewhere.of_customer("C-10023")) == 1, "who comes back is a customer like another"
    records.purge(NOW + timedelta(days=2), timedelta(days=1))
    with sqlite3.connect(tmp_path / "records.sqlite") as raw:
        assert raw.execute("SELECT count(*) FROM fedbank_store WHERE name LIKE 'erased %'").fetchone() == (0,)
        assert raw.execute("SELECT count(*) FROM fedbank_store").fetchone() == (2,)
    raw.close()


def test_an_erasure_that_a_reader_holds_up_says_so_and_can_be_repeated(tmp_path: Path) -> None:
    records, _ = with_exchanges(tmp_path, "C-10023")
    other = open_records(tmp_path, patience_s=0.05)
    with records.reading() as reader:
        assert reader.connection.exec_driver_sql("SELECT count(*) FROM fedbank_answers").scalar() == 1
        with pytest.raises(RecordsError, match="still reads it") as held:
            other.erase("C-10023")
        assert held.value.retry_after_s
    assert other.erase("C-10023").keys == 0
    assert records.customer("C-10023").encode() not in bytes_of(tmp_path)


def test_a_purge_takes_what_is_older_than_the_retention_period_and_nothing_else(tmp_path: Path) -> None:
    records = open_records(tmp_path)
    conversations = Conversations(records)
    for name, customer, hours in (("old", "C-1", -25), ("edge", "C-1", -24), ("new", "C-2", 0), ("gone", "C-3", -48)):
        conversations.add(exchange(name, customer, hours))
    FeedbackDesk(records).give("old", "C-1", helpful=True)
    Jobs(records).submit("f" * 32, [Asked("C-4", QUESTION)], NOW - timedelta(hours=30))
    removed = records.purge(NOW, timedelta(hours=24))
    assert (removed.rows, removed.keys) == (5, 2), "two answers, one feedback, a job and its item; keys of C-3 and C-4"
    left = {one.request_id for customer in ("C-1", "C-2", "C-3") for one in conversations.of_customer(customer)}
    assert left == {"edge", "new"}
    assert FeedbackDesk(records).listed("candidate") == []
    assert records.customer("C-3").encode() not in bytes_of(tmp_path)


SEALED = "UPDATE fedbank_answers SET sealed = "
CHANGES = {
    "a bit of the text": SEALED + "CAST(substr(sealed, 1, 40) || zeroblob(1) || substr(sealed, 42) AS BLOB)",
    "cut": SEALED + "substr(sealed, 1, 20)",
    "emptied": SEALED + "x''",
    "moved to another request": "UPDATE fedbank_answers SET request_id = 'r-0', customer = customer",
    "made younger": "UPDATE fedbank_answers SET at = at + 1000000",
    "another customer's key": "UPDATE fedbank_customers SET wrapped_key = zeroblob(60)",
    "no key": "DELETE FROM fedbank_customers",
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_row_that_was_changed_is_refused_in_words(name: str, tmp_path: Path) -> None:
    conversations = Conversations(open_records(tmp_path))
    conversations.add(exchange("r-1"))
    raw = sqlite3.connect(tmp_path / "records.sqlite")
    assert raw.execute(CHANGES[name]).rowcount == 1
    raw.commit()
    raw.close()
    with pytest.raises(RecordsError, match=r"Expected the row .* as this bank sealed it") as refused:
        conversations.find("r-0" if "moved" in name else "r-1", "C-10023")
    assert "4417" not in str(refused.value)


def test_a_row_that_is_given_to_another_customer_does_not_open(tmp_path: Path) -> None:
    records, conversations = with_exchanges(tmp_path, "C-1", "C-2")
    raw = sqlite3.connect(tmp_path / "records.sqlite")
    raw.execute("UPDATE fedbank_answers SET customer = ? WHERE request_id = 'r-0'", (records.customer("C-2"),))
    raw.commit()
    raw.close()
    with pytest.raises(RecordsError, match="as this bank sealed it"):
        conversations.find("r-0", "C-2")


def test_another_banks_key_does_not_open_the_store(tmp_path: Path) -> None:
    with_exchanges(tmp_path, "C-10023")
    with pytest.raises(RecordsError, match="the records key that this store was made with"):
        open_records(tmp_path, RecordsKey.generate())


@pytest.mark.parametrize("content", [b"hello, this is no database" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_file_that_is_no_database_is_refused_and_left_alone(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    path.write_bytes(content)
    with pytest.raises(RecordsError, match="Expected a whole database"):
        open_records(tmp_path)
    assert path.read_bytes() == content


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    raw = sqlite3.connect(tmp_path / "records.sqlite")
    raw.execute("CREATE TABLE accounts (id)")
    with pytest.raises(RecordsError, match="another program's database"):
        open_records(tmp_path)
    assert raw.execute("SELECT name FROM sqlite_master").fetchall() == [("accounts",)]
    raw.close()


def test_a_store_of_a_later_format_is_refused(tmp_path: Path) -> None:
    with_exchanges(tmp_path)
    raw = sqlite3.connect(tmp_path / "records.sqlite")
    raw.execute("UPDATE fedbank_store SET value = 'fedbank-records/2' WHERE name = 'format'")
    raw.commit()
    raw.close()
    with pytest.raises(RecordsError, match="fedbank-records/2"):
        open_records(tmp_path)


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("nonsense", "Expected the store's URL"),
        ("mysql://user:secret@host/name", "Expected the store's URL"),
        ("sqlite://", "Expected the store's URL"),
        ("sqlite:///:memory:", "Expected the store's URL"),
        ("postgresql+nodriver://user:secret@127.0.0.1/x", "Expected a driver"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_password(where: str, words: str) -> None:
    with pytest.raises(RecordsError, match=words) as refused:
        Database(where)
    assert "secret" not in str(refused.value)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordsError, match="Expected to open the store"):
        Records(Database(tmp_path / "file" / "records.sqlite"), KEY)
