"""The ledger: what was edited or put back is refused, a bad disk costs nothing, several may write at once."""

import dataclasses
import errno
import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from ledger_files import CHARGE, FRESH, MAX_STEPS, assert_refused, fill, head_of, open_ledger

from fedbank.durable import open_locked
from fedbank.errors import PrivacyError
from fedbank.privacy import ledger as module
from fedbank.privacy.ledger import Ledger, read_ledger

# --- damage ------------------------------------------------------------------------------------------------------


LINE_EDITS: dict[str, Callable[[bytes], bytes]] = {
    "not-json": lambda line: b"hello\n",
    "empty": lambda line: b"\n",
    "list": lambda line: b"[1, 2]\n",
    "number": lambda line: b"7\n",
    "not-utf8": lambda line: b"\xff\xfe\n",
    "too-deep": lambda line: b"[" * 100_000 + b"\n",
    "field-missing": lambda line: line.replace(b'"num_steps": 5, ', b""),
    "field-added": lambda line: line.replace(b"{", b'{"note": 1, ', 1),
    "field-renamed": lambda line: line.replace(b"num_steps", b"nom_steps"),
    "type-changed": lambda line: line.replace(b'"num_steps": 5', b'"num_steps": "5"'),
    "negative": lambda line: line.replace(b'"num_steps": 5', b'"num_steps": -5'),
    "chain-removed": lambda line: b"{" + line[line.index(b'"num_steps"') :],
}


@pytest.mark.parametrize("edit", LINE_EDITS.values(), ids=LINE_EDITS.keys())
@pytest.mark.parametrize("number", [2, 4, 5], ids=["first", "middle", "last"])
def test_an_edited_line_is_refused_where_it_stands(path: Path, edit: Callable[[bytes], bytes], number: int) -> None:
    lines = fill(path)
    lines[number - 1] = edit(lines[number - 1])
    path.write_bytes(b"".join(lines))
    assert_refused(path, f"in line {number} of")


def _fewer_steps(line: bytes) -> bytes:
    return line.replace(b'"num_steps": 5', b'"num_steps": 1')


def _other_heading(line: bytes) -> bytes:
    return json.dumps({**json.loads(line), "id": "0" * 32}, sort_keys=True).encode() + b"\n"


CHAIN_EDITS: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "cheaper": (lambda lines: [*lines[:2], _fewer_steps(lines[2]), *lines[3:]], "line 4 .*does not follow"),
    "last-cheaper": (lambda lines: [*lines[:-1], _fewer_steps(lines[-1])], "Expected line 5"),
    "another-heading": (lambda lines: [_other_heading(lines[0]), *lines[1:]], "line 2 .*does not follow"),
    "no-heading": (lambda lines: lines[1:], "heading in line 1"),
    "missing": (lambda lines: [*lines[:2], *lines[3:]], "line 3 .*does not follow"),
    "doubled": (lambda lines: [*lines[:3], *lines[2:]], "line 4 .*does not follow"),
    "swapped": (lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], "line 3 .*does not follow"),
    "two-headings": (lambda lines: [lines[0], *lines], "in line 2"),
    "cut-at-a-line": (lambda lines: lines[:-1], "to have 5 lines, .* got 4"),
    "cut-in-the-last-line": (lambda lines: [*lines[:-1], lines[-1][:-9]], "to have 5 lines, .* got 4"),
    "cut-to-one": (lambda lines: lines[:1], "to have 5 lines, .* got 1"),
    "emptied": (lambda lines: [], "to have 5 lines, .* got 0"),
}


@pytest.mark.parametrize(("edit", "match"), CHAIN_EDITS.values(), ids=CHAIN_EDITS.keys())
def test_a_ledger_that_is_not_the_one_that_was_written_is_refused(
    path: Path, edit: Callable[[list[bytes]], list[bytes]], match: str
) -> None:
    path.write_bytes(b"".join(edit(fill(path))))
    assert_refused(path, match)


def test_a_ledger_without_its_file_or_its_head_is_refused(path: Path) -> None:
    fill(path)
    path.rename(path.with_suffix(".away"))
    with pytest.raises(PrivacyError, match=r"of bank-a .* 5 lines, .* got 0"):
        open_ledger(path).charges()
    assert not path.exists()
    with pytest.raises(PrivacyError, match=r"5 lines, .* got 0"):
        open_ledger(path).charge(CHARGE, max_steps=MAX_STEPS)
    path.with_suffix(".away").rename(path)
    head_of(path).unlink()
    assert_refused(path, "0 lines, .* got 5")


def test_an_older_copy_of_the_file_or_of_the_head_is_refused(path: Path) -> None:
    fill(path, 2)
    old, old_head = path.read_bytes(), head_of(path).read_bytes()
    for number in (3, 4):
        open_ledger(path).charge(dataclasses.replace(FRESH, round=number), max_steps=MAX_STEPS)
    new, new_head = path.read_bytes(), head_of(path).read_bytes()
    path.write_bytes(old)
    assert_refused(path, "5 lines, .* got 3")
    path.write_bytes(new)
    head_of(path).write_bytes(old_head)
    assert_refused(path, "3 lines, .* got 5")
    head_of(path).write_bytes(new_head)
    assert len(open_ledger(path).charges()) == 4


def test_the_ledger_of_another_bank_or_of_another_time_is_refused(tmp_path: Path, path: Path) -> None:
    fill(path, 3)
    other = tmp_path / "other" / "ledger.jsonl"
    Ledger(other, "bank-b").charge(CHARGE, max_steps=MAX_STEPS)
    with pytest.raises(PrivacyError, match=r"privacy ledger of bank-a .* got that of bank-b"):
        open_ledger(other).charges()
    with pytest.raises(PrivacyError, match="got that of bank-b"):
        open_ledger(other).charge(CHARGE, max_steps=MAX_STEPS)
    again = tmp_path / "again" / "ledger.jsonl"
    fill(again, 3)
    shutil.copy(again, path)
    with pytest.raises(PrivacyError, match="Expected line 4"):
        open_ledger(path).charges()


HEADS = {"list": b"[1, 2]", "text": b"hello", "field-missing": b'{"lines": 5}', "no-number": b'{"lines": "x"}'}
HEADS |= {"infinite": b'{"lines": Infinity, "hash": ""}'}


@pytest.mark.parametrize("content", HEADS.values(), ids=HEADS.keys())
def test_a_head_that_is_no_head_is_refused(path: Path, content: bytes) -> None:
    fill(path)
    module.write_record(head_of(path), 0, content)
    module.write_record(head_of(path), 1, content)
    assert_refused(path, "Expected the head of the ledger of bank-a")


def test_a_head_that_counts_below_zero_is_refused(path: Path) -> None:
    module.write_record(head_of(path), 0, b'{"lines": -1, "hash": "x"}')
    with pytest.raises(PrivacyError, match="to have -1 lines"):
        open_ledger(path).charge(CHARGE, max_steps=MAX_STEPS)


def test_a_head_that_was_torn_or_edited_is_not_believed(path: Path) -> None:
    """The slot of the record before is then the head: one line behind, as after a crash."""
    fill(path)
    content = head_of(path).read_bytes()
    assert content.count(b'"lines": 5') == 1
    head_of(path).write_bytes(content.replace(b'"lines": 5', b'"lines": 4'))
    assert len(open_ledger(path).charges()) == 4
    head_of(path).write_bytes(content.replace(b'"lines"', b'"limes"'))
    assert_refused(path, "0 lines, .* got 5")


def test_damage_is_noticed_by_a_ledger_that_is_open(path: Path) -> None:
    fill(path)
    ledger = open_ledger(path)
    ledger.charge(CHARGE, max_steps=MAX_STEPS)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], _fewer_steps(lines[2]), *lines[3:]]))  # as long as before
    with pytest.raises(PrivacyError, match="does not follow"):
        ledger.charge(FRESH, max_steps=MAX_STEPS)
    with pytest.raises(PrivacyError, match="does not follow"):
        ledger.charges()


def test_looking_at_a_ledger_needs_no_name_and_changes_nothing(path: Path) -> None:
    lines = fill(path)
    before = path.read_bytes(), head_of(path).read_bytes()
    book = read_ledger(path)
    assert (book.bank, book.lines, len(book.charges)) == ("bank-a", 5, 4)
    assert book.head == sha256(lines[-1].rstrip(b"\n")).hexdigest()
    assert (path.read_bytes(), head_of(path).read_bytes()) == before
    with pytest.raises(PrivacyError, match="No such file"):
        read_ledger(path.with_name("no-ledger.jsonl"))


# --- disks -------------------------------------------------------------------------------------------------------


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system with the given options; needs the right to mount."""
    folder = tmp_path / "mount"
    folder.mkdir()

    def mount(*options: str) -> Path:
        command = ["mount", *options, str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting is not permitted here")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], check=False, capture_output=True)


@pytest.mark.fault(22)
def test_on_a_disk_that_fills_up_nothing_is_charged_and_the_ledger_stays_whole(
    mounted: Callable[..., Path],
) -> None:
    folder = mounted("-t", "tmpfs", "-o", "size=16k", "tmpfs")
    path = folder / "ledger.jsonl"
    fill(path, 2)
    (folder / "filler").write_bytes(b"x" * 4096)
    ledger, charged = open_ledger(path), 2
    with pytest.raises(PrivacyError, match=r"No space left on device.*Nothing was trained"):
        for _ in range(100):
            ledger.charge(dataclasses.replace(FRESH, round=charged + 1), max_steps=10_000)
            charged += 1
    content = path.read_bytes()
    assert len(content) % 4096 > 3500  # the last page is nearly full: the line was begun and taken back
    assert content.endswith(b"\n")
    for one in (ledger, open_ledger(path)):
        assert [charge.round for charge in one.charges()] == list(range(1, charged + 1))
        with pytest.raises(PrivacyError, match="No space left"):
            one.charge(dataclasses.replace(FRESH, round=charged + 1), max_steps=10_000)
    (folder / "filler").unlink()
    assert ledger.charge(dataclasses.replace(FRESH, round=charged + 1), max_steps=10_000)
    assert read_ledger(path).lines == charged + 2


@pytest.mark.parametrize("filler", [8192, 4096], ids=["no-room", "room-for-the-heading"])
@pytest.mark.fault(22)
def test_on_a_full_disk_no_ledger_is_begun_until_there_is_room(mounted: Callable[..., Path], filler: int) -> None:
    folder = mounted("-t", "tmpfs", "-o", "size=8k", "tmpfs")
    (folder / "filler").write_bytes(b"x" * filler)
    for _ in range(2):
        with pytest.raises(PrivacyError, match="No space left"):
            open_ledger(folder / "ledger.jsonl").charge(CHARGE, max_steps=MAX_STEPS)
        assert open_ledger(folder / "ledger.jsonl").charges() == []
    (folder / "filler").unlink()
    assert open_ledger(folder / "ledger.jsonl").charge(CHARGE, max_steps=MAX_STEPS)


@pytest.mark.fault(22)
def test_a_line_that_passes_a_limit_on_file_size_is_taken_back(path: Path) -> None:
    """A quota, without the right to mount anything: the write is cut short, then refused."""
    fill(path)
    content = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) + 100, limits[1]))
    try:
        with pytest.raises(PrivacyError, match=f"{os.strerror(errno.EFBIG)}.*nothing was sent"):
            open_ledger(path).charge(CHARGE, max_steps=MAX_STEPS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == content
    assert open_ledger(path).charge(CHARGE, max_steps=MAX_STEPS)


def test_on_a_read_only_disk_nothing_is_charged_but_the_ledger_can_be_read(
    mounted: Callable[..., Path],
) -> None:
    folder = mounted("-t", "tmpfs", "-o", "size=64k", "tmpfs")
    path = folder / "ledger.jsonl"
    fill(path)
    before = path.read_bytes()
    mounted("-o", "remount,ro")
    for charge in (FRESH, CHARGE):
        with pytest.raises(PrivacyError, match="Read-only file system"):
            open_ledger(path).charge(charge, max_steps=MAX_STEPS)
    with pytest.raises(PrivacyError, match="Read-only file system"):
        open_ledger(folder / "new" / "ledger.jsonl").charge(CHARGE, max_steps=MAX_STEPS)
    assert len(open_ledger(path).charges()) == 4
    assert path.read_bytes() == before


# --- several at once ---------------------------------------------------------------------------------------------


def _charge_many(path: Path, worker: int, count: int, max_steps: int) -> int:
    charged = 0
    ledger = open_ledger(path)
    for number in range(count):
        try:
            ledger.charge(dataclasses.replace(FRESH, round=1 + number, base_digest=f"w{worker}"), max_steps=max_steps)
            charged += 1
        except PrivacyError as error:
            assert "accounts for" in str(error)
    return charged


def test_processes_cannot_interleave_or_spend_the_same_step_twice(path: Path) -> None:
    """Four processes want 100 charges of 5 steps; the plan has room for 30."""
    with multiprocessing.get_context("fork").Pool(4) as pool:
        charged = pool.starmap(_charge_many, [(path, worker, 25, 150) for worker in range(4)])
    assert sum(charged) == 30
    assert len(open_ledger(path).charges()) == 30
    assert read_ledger(path).lines == 31


def test_threads_that_share_a_ledger_cannot_interleave(path: Path) -> None:
    ledger = open_ledger(path)
    errors: list[PrivacyError] = []

    def work(worker: int) -> None:
        try:
            for number in range(1, 11):
                ledger.charge(dataclasses.replace(FRESH, round=number, base_digest=f"w{worker}"), max_steps=10_000)
                ledger.charges()
        except PrivacyError as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert read_ledger(path).lines == 41


def test_a_charge_sees_what_another_process_charged_in_between(path: Path) -> None:
    first, second = open_ledger(path), open_ledger(path)
    first.charge(FRESH, max_steps=10)
    second.charge(FRESH, max_steps=10)
    with pytest.raises(PrivacyError, match="accounts for 10"):
        first.charge(FRESH, max_steps=10)


def test_a_ledger_that_somebody_holds_for_too_long_is_a_plain_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(path)
    monkeypatch.setattr(module, "open_locked", lambda path, *, write: open_locked(path, write=write, patience_s=0.05))
    with open_locked(path, write=True):
        with pytest.raises(PrivacyError, match="another process does not let go of it"):
            open_ledger(path).charge(CHARGE, max_steps=MAX_STEPS)
        with pytest.raises(PrivacyError, match="another process"):
            open_ledger(path).charges()
    assert open_ledger(path).charge(CHARGE, max_steps=MAX_STEPS)


def test_a_charge_does_not_read_the_history_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(path)
    ledger, read = open_ledger(path), []
    real = module._read
    monkeypatch.setattr(module, "_read", lambda *args: (read.append(1), real(*args))[1])
    for number in range(5, 10):
        ledger.charge(dataclasses.replace(FRESH, round=number), max_steps=MAX_STEPS)
        ledger.charges()
    assert read == [1]
