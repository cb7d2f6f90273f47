"""Entries that are appended together: the same log as one by one, with fewer waits for the disk."""

import os
from pathlib import Path

import pytest
from own_log import DIGEST, KEY, open_log

from fedbank.evidence.errors import EvidenceError
from fedbank.evidence.files import checkpoints_of
from fedbank.evidence.verify import verify_log

Record = tuple[str, str, str, str]


def records(count: int) -> list[Record]:
    return [("answer", DIGEST, f"number {number}", "bank-a") for number in range(count)]


@pytest.mark.parametrize("already", [0, 1, 64, 99, 100])
@pytest.mark.parametrize("count", [1, 2, 36, 99, 100, 101, 250])
def test_entries_that_come_together_make_the_log_that_they_make_one_by_one(
    tmp_path: Path, already: int, count: int
) -> None:
    one, together = (tmp_path / name / "evidence.jsonl" for name in ("one", "together"))
    single = open_log(one, sync=False)
    for record in records(already + count):
        single.append(*record)
    log = open_log(together, sync=False)
    log.append_all(records(already))
    assert log.append_all(records(already + count)[already:]) == already
    assert together.read_bytes() == one.read_bytes()
    if already + count >= 100:
        assert checkpoints_of(together).read_bytes() == checkpoints_of(one).read_bytes()
    assert verify_log(together, KEY.public.raw).entries == already + count


def test_entries_that_come_together_wait_for_the_disk_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, synced, fsync = open_log(path), list[int](), os.fsync
    log.append(*records(1)[0])
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(descriptor), fsync(descriptor)))
    log.append_all(records(64))
    assert len(synced) == 1


def test_nothing_is_appended_if_one_of_them_is_no_entry(path: Path) -> None:
    log = open_log(path)
    log.append(*records(1)[0])
    before = path.read_bytes()
    with pytest.raises(EvidenceError):
        log.append_all([*records(3), ("two words", DIGEST, "", "bank-a"), *records(3)])
    assert path.read_bytes() == before
    assert log.append_all(records(2)) == 1
    assert verify_log(path, KEY.public.raw).entries == 3


def test_no_entries_are_nothing_to_wait_for(path: Path) -> None:
    log = open_log(path)
    assert log.append_all([]) == 0
    assert not path.exists()
