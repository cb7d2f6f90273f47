"""The same store in PostgreSQL, where there is one: by URL, with two writers, with erasure."""

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from bank_records import ANSWER, KEY, NOW, QUESTION, exchange

from fedbank.serving.store.conversations import Conversations
from fedbank.serving.store.database import Database, RecordsError
from fedbank.serving.store.feedback import FeedbackDesk
from fedbank.serving.store.jobs import Asked, Jobs
from fedbank.serving.store.records import Records
from fedbank.serving.store.vault import RecordsKey

pytestmark = pytest.mark.slow
ME = "a" * 32


def _program(name: str) -> str:
    """The newest of the installed ones; PostgreSQL's own programs are often not on the path."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    path = str(found[-1]) if found else shutil.which(name)
    return path or pytest.skip(f"there is no {name} here")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of its own that listens on a socket in a folder, as a user that is not root."""
    pytest.importorskip("psycopg")
    initdb, pg_ctl = _program("initdb"), _program("pg_ctl")
    folder = tmp_path_factory.mktemp("postgres")
    as_user: dict[str, object] = {}
    if os.geteuid() == 0:
        as_user = {"user": "postgres", "group": "postgres"}
        shutil.chown(folder, "postgres", "postgres")
        for parent in list(folder.parents)[:3]:
            parent.chmod(parent.stat().st_mode | 0o011)
    data = folder / "data"
    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
    run = {"check": True, "capture_output": True, "cwd": folder, **as_user}
    subprocess.run([initdb, "-D", data, "-U", "bank", "--auth=trust", "--no-sync"], **run)  # type: ignore[call-overload]
    started = subprocess.run([pg_ctl, "-D", data, "-o", options, "-l", folder / "log", "-w", "start"], **run)  # type: ignore[call-overload]
    assert started.returncode == 0
    try:
        yield f"postgresql+psycopg://bank@/postgres?host={folder}"
    finally:
        subprocess.run([pg_ctl, "-D", data, "-m", "immediate", "stop"], **run)  # type: ignore[call-overload]


def test_a_bank_with_postgresql_has_the_same_records(url: str) -> None:
    def work(name: int) -> None:
        conversations = Conversations(Records(Database(url), KEY))
        for number in range(10):
            conversations.add(exchange(f"r-{name}-{number}"))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = Records(Database(url), KEY)
    conversations, desk, jobs = Conversations(records), FeedbackDesk(records), Jobs(records)
    assert len(conversations.of_customer("C-10023")) == 40
    assert conversations.find("r-0-0", "C-10023").answer == ANSWER
    with pytest.raises(RecordsError, match="new request id"):
        conversations.add(exchange("r-0-0"))
    desk.give("r-0-0", "C-10023", helpful=True, comment="谢谢")
    desk.review("r-0-0", ME, NOW, approve=True)
    assert [one.question for one in desk.approved_inquiries()] == [QUESTION]
    job = jobs.submit(ME, [Asked("C-10023", QUESTION), Asked("C-7", QUESTION)], NOW)
    item = jobs.claim("w", NOW)
    assert item and jobs.record(item, "yes", "r", NOW) and not jobs.record(item, "no", "r", NOW)
    assert records.erase("C-10023").rows == 42
    assert conversations.of_customer("C-10023") == [] and jobs.progress(job, ME, NOW).erased == 1
    with pytest.raises(RecordsError, match="the records key that this store was made with"):
        Records(Database(url), RecordsKey.generate())


def test_a_database_server_that_is_away_is_said_to_be(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(RecordsError, match="Expected the store postgresql") as away:
        Database(f"postgresql+psycopg://bank:secret@/postgres?host={tmp_path}", patience_s=1)
    assert "secret" not in str(away.value) and away.value.retry_after_s
