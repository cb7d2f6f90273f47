"""A bank's commands on what customers asked: for training, erased, purged; and tokens for a first run."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from served_bank import bank_home

from fedbank.cli import main
from fedbank.config.schema import RecordsConfig
from fedbank.data.files import Columns, read_inquiries
from fedbank.evidence.log import EvidenceLog
from fedbank.evidence.verify import verify_log
from fedbank.serving.access.development_issuer import DevelopmentIssuer
from fedbank.serving.access.rights import Role
from fedbank.serving.access.tokens import TokenVerifier
from fedbank.serving.store.conversations import Conversations, Exchange
from fedbank.serving.store.feedback import FeedbackDesk
from fedbank.serving.store.records import Records
from fedbank_client.home import Home
from fedbank_client.serving.folder import PURGED, ServiceFolder

NOW = datetime.now(UTC)
NAMES = ("C-10023", "张三", "C-7")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A bank whose service answered three customers; two answers were reviewed and approved."""
    made = bank_home(tmp_path / "bank")
    with records_of(made) as records:
        conversations, desk = Conversations(records), FeedbackDesk(records)
        for number, name in enumerate(NAMES):
            at = NOW - timedelta(days=100 * number)
            texts = (name, f"Question {number}, 第一行\nsecond line?", f"Answer {number}")
            conversations.add(Exchange(f"r-{number}", at, "s-1", "a" * 64, *texts, language="zh"))
            desk.give(f"r-{number}", name, helpful=number != 1)
        desk.review("r-0", "b" * 32, NOW, approve=True)
        desk.review("r-1", "b" * 32, NOW, approve=True, corrected="The right answer")
    return made


@contextmanager
def records_of(home: Home, passphrase: bytes | None = None) -> Iterator[Records]:
    records, _ = ServiceFolder(home).open_records(RecordsConfig(), passphrase)
    yield records
    records.close()


def evidence_of(home: Home) -> EvidenceLog:
    return ServiceFolder(home).open_evidence()


def command(home: Home, *words: str) -> int:
    return main(["client", "records", words[0], "--dir", str(home.folder), *words[1:]])


def test_approved_feedback_is_written_as_training_reads_it(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "feedback.jsonl"
    assert command(home, "feedback", "-o", str(output)) == 0
    assert "Wrote 2 rows, by 2 of the customers" in capsys.readouterr().out
    assert output.stat().st_mode & 0o777 == 0o600
    found = read_inquiries(output, "jsonl", Columns("question", "answer", "customer", "key", "language"))
    told = {(one.customer, one.question, one.answer, one.language) for one in found}
    assert told == {
        ("C-10023", "Question 0, 第一行\nsecond line?", "Answer 0", "zh"),
        ("张三", "Question 1, 第一行\nsecond line?", "The right answer", "zh"),
    }


def test_without_approved_feedback_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home, output = bank_home(tmp_path / "bank"), tmp_path / "feedback.jsonl"
    assert command(home, "feedback", "-o", str(output)) == 2
    assert "Expected the records of a service" in capsys.readouterr().err
    with records_of(home):
        pass
    assert command(home, "feedback", "-o", str(output)) == 2
    assert "Expected approved feedback, got none" in capsys.readouterr().err and not output.exists()


def test_a_customer_is_erased_by_the_name_on_standard_input(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("张三\n"))
    assert command(home, "erase", "--json") == 0
    told = capsys.readouterr().out
    assert json.loads(told) == {"rows": 2, "keys": 1, "sessions": 0, "service_runs": False} and "张三" not in told
    with records_of(home) as records:
        conversations = Conversations(records)
        assert conversations.of_customer("张三") == [] and len(conversations.of_customer("C-7")) == 1
        name = records.customer("张三")
    (entry,) = evidence_of(home).entries("erase-customer")
    assert entry.object == name and entry.result == "2 rows" and len(entry.actor) == 32
    verify_log(ServiceFolder(home).evidence, home.load_signing_key().public.raw, [])


def test_a_name_of_nobody_is_told_and_an_editors_mark_is_no_part_of_one(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = tmp_path / "name"
    for content, said in (("\ufeffC-7\r\n", "Erased 2 rows"), ("C-70\n", "Nothing was kept under that name")):
        named.write_text(content, "utf-8")
        assert command(home, "erase", "--customer-file", str(named)) == 0
        assert said in capsys.readouterr().out


def test_the_name_may_come_from_a_file_and_a_service_may_run(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = tmp_path / "name"
    named.write_text("C-7\n", "utf-8")
    with ServiceFolder(home).exclusive():
        assert command(home, "erase", "--customer-file", str(named)) == 0
    told = capsys.readouterr().out
    assert "Erased 2 rows and 1 keys" in told and "A service runs in this folder" in told and "C-7" not in told


@pytest.mark.parametrize("content", ["", "\n", " \nC-7", "C-7\nC-10023", " C-7", "C-7\t", "x" * 2000])
def test_a_name_that_is_none_erases_nothing(
    home: Home, tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    named = tmp_path / "name"
    named.write_text(content, "utf-8")
    assert command(home, "erase", "--customer-file", str(named)) == 2
    assert "Nothing was erased" in capsys.readouterr().err
    with records_of(home) as records:
        assert all(len(Conversations(records).of_customer(name)) == 1 for name in NAMES)


def test_a_purge_takes_what_is_older_than_the_settings_say(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(home, "purge", "--json", "records.retention_days=150") == 0
    assert json.loads(capsys.readouterr().out) == {"rows": 2, "keys": 1}
    with records_of(home) as records:
        kept = {name for name in NAMES if Conversations(records).of_customer(name)}
    assert kept == {"C-10023", "张三"}
    (entry,) = evidence_of(home).entries(PURGED)
    assert entry.result == "2 rows, 1 keys"


def test_the_commands_need_the_passphrase_of_the_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home, words = bank_home(tmp_path / "bank"), tmp_path / "passphrase"
    with records_of(home, b"a long one"):
        pass
    words.write_text("a long one\n")
    words.chmod(0o600)
    assert command(home, "purge") == 2
    assert "Expected a passphrase" in capsys.readouterr().err
    assert command(home, "purge", "--passphrase-file", str(words)) == 0


def test_a_token_of_the_command_is_taken_by_the_service_of_the_same_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = bank_home(tmp_path / "bank")
    words = ["client", "token", "--dir", str(home.folder), "--role", "operator", "--subject", "Ms Chen"]
    assert main(words) == 0
    token = capsys.readouterr().out.strip()
    issuer = DevelopmentIssuer(ServiceFolder(home).path, "127.0.0.1")
    principal = TokenVerifier(issuer.policy("fedbank"), issuer.keys()).principal(token, datetime.now(UTC))
    assert (principal.role, principal.subject) == (Role.OPERATOR, "Ms Chen")
    assert ServiceFolder(home).path.stat().st_mode & 0o077 == 0
    assert main([*words[:-1], "x" * 300]) == 2
    assert "--subject" in capsys.readouterr().err
