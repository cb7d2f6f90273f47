"""The ledger: what is charged is on disk, what was cut off is dropped, what was edited or put back is refused."""

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
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest

from fedbank.durable import open_locked
from fedbank.errors import PrivacyError
from fedbank.privacy import ledger as module
from fedbank.privacy.ledger import Charge, Ledger, read_ledger

CHARGE = Charge("spring", 1, "b1", "d1", 0.05, 1.1, 5, "stream-1")
MAX_STEPS = 100
DIFFERENCES = [
    {"campaign": "autumn"},
    {"round": 2},
    {"base_digest": "b2"},
    {"campaign": "winter", "plan_digest": "d2"},
    {"num_steps": 6},
    {"noise_multiplier": 1.2},
    {"sampling_prob": 0.06},
]
OTHERS = [
    *(dataclasses.replace(CHARGE, replay_id=f"stream-{n}", **d) for n, d in enumerate(DIFFERENCES, start=2)),
    dataclasses.replace(CHARGE, replay_id="stream-0"),
    dataclasses.replace(CHARGE, replay_id=None),
]
FRESH = dataclasses.replace(CHARGE, replay_id=None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def open_ledger(path: Path) -> Ledger:
    return Ledger(path, "bank-a")


def head_of(path: Path) -> Path:
    return path.with_suffix(".head")


def fill(path: Path, count: int = 4) -> list[bytes]:
    """A ledger with ``count`` charges; its lines with their newlines."""
    ledger = open_ledger(path)
    for number in range(1, count + 1):
        ledger.charge(dataclasses.replace(FRESH, round=number), max_steps=MAX_STEPS)
    return path.read_bytes().splitlines(keepends=True)


def assert_refused(path: Path, match: str) -> None:
    """Reading and charging fail, for a ledger that is opened now, and leave the files as they are."""
    before = {file: file.read_bytes() for file in sorted(path.parent.iterdir())}
    for charge in (FRESH, CHARGE):
        with pytest.raises(PrivacyError, match=match):
            open_ledger(path).charge(dataclasses.replace(charge, round=9), max_steps=MAX_STEPS)
    with pytest.raises(PrivacyError, match=match):
        open_ledger(path).charges()
    assert {file: content for file in before if (content := file.read_bytes())} == {
        file: content for file, content in before.items() if content
    }


def test_a_charge_is_synced_to_disk_before_it_returns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, bytes]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        synced.append((name, path.read_bytes()))

    monkeypatch.setattr(os, "fsync", fsync)
    assert open_ledger(path).charge(CHARGE, max_steps=MAX_STEPS)
    content = path.read_bytes()
    assert ("ledger.jsonl", content) in synced
    assert synced[-1] == ("ledger.head", content)  # the head counts a line only when that is on disk
    order = [name for name, _ in synced]
    assert order == ["ledger.jsonl", "ledger.head", path.parent.name, "ledger.jsonl", "ledger.head"]


def test_every_line_holds_the_hash_of_the_line_before_it(path: Path) -> None:
    lines = [line.rstrip(b"\n") for line in fill(path)]
    heading = json.loads(lines[0])
    assert heading.keys() == {"format", "bank", "id"}
    assert (heading["format"], heading["bank"], len(heading["id"])) == ("fedbank-ledger/1", "bank-a", 32)
    for before, line in pairwise(lines):
        record = json.loads(line)
        assert record["previous"] == sha256(before).hexdigest()
        assert record.keys() == {"previous", *(one.name for one in dataclasses.fields(Charge))}


def test_two_ledgers_of_one_bank_have_different_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        fill(tmp_path / name / "ledger.jsonl", 1)
    assert read_ledger(tmp_path / "a/ledger.jsonl").identity != read_ledger(tmp_path / "b/ledger.jsonl").identity


def test_a_new_ledger_is_its_owners_only(path: Path) -> None:
    fill(path)
    assert [file.stat().st_mode & 0o777 for file in (path, head_of(path))] == [0o600, 0o600]


def test_the_time_of_a_charge_is_recorded_but_is_no_part_of_it(path: Path) -> None:
    ledger = open_ledger(path)
    ledger.charge(CHARGE, max_steps=MAX_STEPS)
    (charge,) = ledger.charges()
    assert abs(datetime.fromisoformat(charge.time) - datetime.now(UTC)) < timedelta(seconds=60)
    later = dataclasses.replace(CHARGE, time="2031-01-01T00:00:00+00:00")
    assert later == charge and hash(later) == hash(charge)
    assert not open_ledger(path).charge(later, max_steps=MAX_STEPS)
    assert len(ledger.charges()) == 1


def test_the_same_release_computed_again_costs_nothing(path: Path) -> None:
    assert open_ledger(path).charge(CHARGE, max_steps=MAX_STEPS)
    assert not open_ledger(path).charge(CHARGE, max_steps=MAX_STEPS)
    assert open_ledger(path).charges() == [CHARGE]


@pytest.mark.parametrize("other", OTHERS, ids=lambda charge: str(dataclasses.astuple(charge)))
def test_any_difference_is_a_charge_of_its_own(path: Path, other: Charge) -> None:
    ledger = open_ledger(path)
    ledger.charge(CHARGE, max_steps=MAX_STEPS)
    assert ledger.charge(other, max_steps=MAX_STEPS)
    assert ledger.charges() == [CHARGE, other]


@pytest.mark.parametrize("difference", DIFFERENCES, ids=str)
def test_one_stream_never_covers_two_releases(path: Path, difference: dict[str, object]) -> None:
    ledger = open_ledger(path)
    ledger.charge(CHARGE, max_steps=MAX_STEPS)
    with pytest.raises(PrivacyError, match="no noise"):
        ledger.charge(dataclasses.replace(CHARGE, **difference), max_steps=MAX_STEPS)
    assert ledger.charges() == [CHARGE]


@pytest.mark.parametrize("replay_id", [None, "stream-2"])
def test_a_campaign_keeps_its_plan(path: Path, replay_id: str | None) -> None:
    ledger = open_ledger(path)
    ledger.charge(CHARGE, max_steps=MAX_STEPS)
    with pytest.raises(PrivacyError, match="another plan"):
        ledger.charge(dataclasses.replace(CHARGE, plan_digest="d2", replay_id=replay_id), max_steps=MAX_STEPS)
    assert ledger.charges() == [CHARGE]


def test_a_ledger_is_about_one_unit_of_privacy(path: Path) -> None:
    """Epsilon for every record says nothing about a customer with many: the two must never be composed."""
    ledger = open_ledger(path)
    ledger.charge(CHARGE, max_steps=MAX_STEPS)
    with pytest.raises(PrivacyError, match="protects every record"):
        ledger.charge(dataclasses.replace(FRESH, campaign="autumn", unit="record"), max_steps=MAX_STEPS)
    assert ledger.charges() == [CHARGE]


@pytest.mark.parametrize(("max_steps", "charged"), [(4, 0), (5, 1), (14, 2), (15, 3)])
def test_a_campaign_never_passes_its_steps(path: Path, max_steps: int, charged: int) -> None:
    ledger = open_ledger(path)
    for _ in range(charged):
        ledger.charge(FRESH, max_steps=max_steps)
    for restarted in (ledger, open_ledger(path)):
        with pytest.raises(PrivacyError, match=f"accounts for {max_steps}"):
            restarted.charge(FRESH, max_steps=max_steps)
    assert len(ledger.charges()) == charged
    assert ledger.charge(dataclasses.replace(FRESH, campaign="autumn"), max_steps=5)


def test_fresh_noise_is_charged_every_time(path: Path) -> None:
    ledger = open_ledger(path)
    assert [ledger.charge(FRESH, max_steps=MAX_STEPS) for _ in range(3)] == [True] * 3
    assert ledger.charges() == [FRESH] * 3


def test_charges_survive_a_restart_in_order(path: Path) -> None:
    for charge in OTHERS:
        open_ledger(path).charge(charge, max_steps=MAX_STEPS)
    assert open_ledger(path).charges() == OTHERS


def test_an_absent_ledger_has_no_charges_and_stays_absent(path: Path) -> None:
    assert open_ledger(path).charges() == []
    assert list(path.parent.iterdir()) == []


BAD_CHARGES = [
    {"num_steps": 0},
    {"num_steps": -5},
    {"num_steps": 1.5},
    {"num_steps": True},
    {"sampling_prob": 0.0},
    {"sampling_prob": 1.01},
    {"sampling_prob": float("nan")},
    {"sampling_prob": "0.1"},
    {"noise_multiplier": 0.0},
    {"noise_multiplier": -1.0},
    {"noise_multiplier": float("inf")},
    {"noise_multiplier": float("nan")},
    {"campaign": 7},
    {"unit": None},
    {"round": "1"},
]


@pytest.mark.parametrize("bad", BAD_CHARGES, ids=str)
def test_a_charge_that_would_give_budget_back_or_has_no_epsilon_cannot_be_made(bad: dict[str, object]) -> None:
    with pytest.raises(PrivacyError, match="Expected a charge for at least one step"):
        dataclasses.replace(CHARGE, **bad)


# --- crashes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 1, 40, -1])
@pytest.mark.parametrize("replay_id", [None, "stream-2"])
def test_a_last_line_that_a_crash_cut_short_is_dropped(path: Path, keep: int, replay_id: str | None) -> None:
    fill(path, 2)
    whole, head = path.read_bytes(), head_of(path).read_bytes()
    last = dataclasses.replace(FRESH, round=3, replay_id=replay_id)
    open_ledger(path).charge(last, max_steps=MAX_STEPS)
    path.write_bytes(whole + path.read_bytes()[len(whole) :][:keep])
    head_of(path).write_bytes(head)
    assert [charge.round for charge in open_ledger(path).charges()] == [1, 2]
    assert open_ledger(path).charge(last, max_steps=MAX_STEPS)
    assert [charge.round for charge in open_ledger(path).charges()] == [1, 2, 3]
    assert read_ledger(path).lines == 4


class Killed(BaseException):
    """The process ends here."""


def test_a_line_that_the_head_does_not_count_yet_is_spent(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the two: the noise may have been drawn, so the charge stands, however often that happens."""
    fill(path, 1)
    real = module.write_record
    for number in (2, 3, 4):

        def die(head: Path, lines: int, content: bytes, *, sync: bool, at: int = number + 1) -> None:
            if lines == at:
                raise Killed
            real(head, lines, content, sync=sync)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(module, "write_record", die)
            open_ledger(path).charge(dataclasses.replace(FRESH, round=number), max_steps=MAX_STEPS)
        assert b'"lines": %d' % (number + 1) not in head_of(path).read_bytes()
        assert [charge.round for charge in open_ledger(path).charges()] == list(range(1, number + 1))


def test_a_line_that_a_crash_left_unsynced_is_on_disk_before_its_release_is_computed_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between write and fsync, the line is in the kernel's memory only; a power failure would lose it."""
    fill(path, 1)
    head = head_of(path).read_bytes()
    open_ledger(path).charge(CHARGE, max_steps=MAX_STEPS)
    head_of(path).write_bytes(head)
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    ledger = open_ledger(path)
    assert not ledger.charge(CHARGE, max_steps=MAX_STEPS)
    assert synced == ["ledger.jsonl", "ledger.head"]
    assert not ledger.charge(CHARGE, max_steps=MAX_STEPS)
    assert len(synced) == 2
    assert ledger.charge(FRESH, max_steps=MAX_STEPS)
    assert synced[2:] == ["ledger.jsonl", "ledger.head"]


@pytest.mark.parametrize("stage", ["nothing", "part of the heading", "no head", "empty head", "first charge cut"])
def test_a_crash_while_a_ledger_is_made_leaves_one_that_can_be_used(path: Path, stage: str) -> None:
    lines = fill(path, 1)
    head_of(path).unlink()
    path.write_bytes(
        {"nothing": b"", "part of the heading": lines[0][:20], "first charge cut": lines[0] + lines[1][:30]}.get(
            stage, lines[0]
        )
    )
    if stage == "empty head":
        head_of(path).write_bytes(b"")
    assert open_ledger(path).charges() == []
    assert open_ledger(path).charge(CHARGE, max_steps=MAX_STEPS)
    assert open_ledger(path).charges() == [CHARGE]


@pytest.mark.parametrize("already", [0, 1, 3])
def test_killed_at_any_system_call_the_ledger_is_usable_and_never_below_what_was_returned(
    path: Path, already: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 100):
        shutil.rmtree(path.parent)
        path.parent.mkdir()
        if already:
            fill(path, already)
        calls = 0

        def dying(name: str, real: Callable[..., object], before: bool, at: int = number) -> Callable[..., object]:
            def call(*args: object) -> object:
                nonlocal calls
                calls += 1
                if calls == at and before:
                    raise Killed
                if calls == at and name == "pwrite":  # only the first half of it reached the file
                    descriptor, content, offset = args
                    real(descriptor, content[: len(content) // 2], offset)
                    raise Killed
                return real(*args)

            return call

        with monkeypatch.context() as patch:
            for name in ("pwrite", "fsync", "ftruncate"):
                patch.setattr(os, name, dying(name, getattr(os, name), before=name != "pwrite"))
            try:
                open_ledger(path).charge(CHARGE, max_steps=MAX_STEPS)
                returned = True
            except Killed:
                returned = False
        found = open_ledger(path).charges()
        assert found[:already] == [dataclasses.replace(FRESH, round=n) for n in range(1, already + 1)]
        assert len(found) - already in ((1,) if returned else (0, 1))
        assert open_ledger(path).charge(CHARGE, max_steps=MAX_STEPS) == (len(found) == already)
        assert len(open_ledger(path).charges()) == already + 1
        if returned:
            assert number > 5
            return
    raise AssertionError("the charge never went through")


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
def test_on_a_full_disk_no_ledger_is_begun_until_there_is_room(mounted: Callable[..., Path], filler: int) -> None:
    folder = mounted("-t", "tmpfs", "-o", "size=8k", "tmpfs")
    (folder / "filler").write_bytes(b"x" * filler)
    for _ in range(2):
        with pytest.raises(PrivacyError, match="No space left"):
            open_ledger(folder / "ledger.jsonl").charge(CHARGE, max_steps=MAX_STEPS)
        assert open_ledger(folder / "ledger.jsonl").charges() == []
    (folder / "filler").unlink()
    assert open_ledger(folder / "ledger.jsonl").charge(CHARGE, max_steps=MAX_STEPS)


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
