"""Files are whole or not there: simulated crashes at every system call."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from fedbank.durable import append_durable, open_locked, read_lines, read_records, write_atomic, write_record


class Crash(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("old", [None, b"", b"old bytes"], ids=["absent", "empty", "old"])
def test_the_new_bytes_replace_the_old(tmp_path: Path, old: bytes | None) -> None:
    path = tmp_path / "deep" / "er" / "file"
    if old is not None:
        path.parent.mkdir(parents=True)
        path.write_bytes(old)
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_crash_before_the_rename_leaves_the_old_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def crash(*args: object) -> None:
        raise Crash

    monkeypatch.setattr(*((os, "fsync", crash) if call == "fsync" else (Path, "replace", crash)))
    with pytest.raises(Crash):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_synced_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append("fsync"), fsync(descriptor))[1])
    monkeypatch.setattr(Path, "replace", lambda self, to: (events.append("rename"), replace(self, to))[1])
    write_atomic(tmp_path / "file", b"new")
    assert events == ["fsync", "rename", "fsync"]


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"a\n", [b"a"]),
        (b"a\nb\n", [b"a", b"b"]),
        (b"a\nb", [b"a"]),
        (b"cut", []),
        (b"a\n\nb\n", [b"a", b"", b"b"]),
    ],
    ids=["empty", "one", "two", "second-cut", "only-cut", "blank-between"],
)
def test_a_cut_last_line_is_left_out_and_replaced(tmp_path: Path, content: bytes, lines: list[bytes]) -> None:
    path = tmp_path / "log"
    path.write_bytes(content)
    assert read_lines(path) == lines
    append_durable(path, b"next")
    assert read_lines(path) == [*lines, b"next"]
    assert path.read_bytes().endswith(b"next\n")


def test_an_absent_file_has_no_lines_and_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "log"
    assert read_lines(path) == []
    append_durable(path, b"first")
    append_durable(path, b"second")
    assert read_lines(path) == [b"first", b"second"]


def test_appending_syncs_before_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "log", []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (seen.append(path.read_bytes()), fsync(descriptor))[1])
    append_durable(path, b"line")
    append_durable(path, b"more")
    assert b"line\n" in seen
    assert seen[-1] == b"line\nmore\n"


def test_a_line_that_the_disk_refuses_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    append_durable(path, b"first")

    def full(descriptor: int, content: bytes, at: int, real: object = os.pwrite) -> int:
        if len(content) > 3:
            return real(descriptor, content[:3], at)  # type: ignore[operator]
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(os, "pwrite", full)
        append_durable(path, b"1234")
    assert path.read_bytes() == b"first\n"


def test_the_newest_record_is_read_and_the_one_before_it_survives_a_torn_write(tmp_path: Path) -> None:
    path = tmp_path / "record"
    assert read_records(path) == []
    for number in range(1, 6):
        write_record(path, number, b"record %d" % number)
        assert sorted(read_records(path)) == [b"record %d" % n for n in (number - 1, number) if n]
        assert path.stat().st_size == 512
    content = path.read_bytes()
    for torn in range(66, 80):
        path.write_bytes(content[: 256 + torn] + b"?" + content[256 + torn + 1 :])
        assert b"record 4" in read_records(path)
        assert all(record in (b"record 4", b"record 5") for record in read_records(path))


def test_a_record_that_does_not_fit_is_a_programmers_error(tmp_path: Path) -> None:
    write_record(tmp_path / "record", 1, b"x" * 190)
    assert read_records(tmp_path / "record") == [b"x" * 190]
    with pytest.raises(ValueError, match="at most 190 bytes"):
        write_record(tmp_path / "record", 2, b"x" * 191)


def test_a_record_is_synced_before_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "record", []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (seen.append(path.read_bytes()), fsync(descriptor))[1])
    write_record(path, 1, b"one")
    assert seen == [path.read_bytes()]


@pytest.mark.parametrize("replacement", [b"new\n", None], ids=["replaced", "removed"])
def test_a_file_that_was_replaced_between_opening_and_locking_it_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replacement: bytes | None
) -> None:
    """Otherwise a line would go into a file that has no name any more."""
    path, real, calls = tmp_path / "log", fcntl.flock, []
    path.write_bytes(b"old\n")

    def flock(descriptor: int, operation: int) -> None:
        if not calls:
            path.unlink()
            if replacement is not None:
                path.write_bytes(replacement)
        calls.append(descriptor)
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with open_locked(path, write=True) as descriptor:
        assert os.pread(descriptor, 100, 0) == (replacement or b"")
        assert os.path.samestat(os.fstat(descriptor), path.stat())
    assert len(calls) == 2


def test_readers_share_a_file_and_writers_do_not(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with open_locked(path, write=True), pytest.raises(TimeoutError):  # noqa: SIM117
        with open_locked(path, write=False, patience_s=0.01):
            pass
    with open_locked(path, write=False), open_locked(path, write=False, patience_s=0.01):
        pass
    with pytest.raises(FileNotFoundError), open_locked(tmp_path / "none", write=False):
        pass
