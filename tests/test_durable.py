"""Files are whole or not there: simulated crashes at every system call."""

import os
from pathlib import Path

import pytest

from fedbank.durable import append_durable, read_lines, write_atomic


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
