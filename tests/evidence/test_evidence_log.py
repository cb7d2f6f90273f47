import json
import multiprocessing
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from own_log import DIGEST, KEY, NOON, ORIGIN, fill, open_log

from fedbank.evidence import log as module
from fedbank.evidence.entry import MAX_LINE_BYTES, MAX_RESULT, Entry, one_line
from fedbank.evidence.errors import EvidenceError
from fedbank.evidence.files import checkpoints_of
from fedbank.evidence.log import EvidenceLog
from fedbank.evidence.note import read_checkpoint
from fedbank.evidence.trail import INTERVAL
from fedbank.evidence.verify import check_growth, verify_log


def test_an_entry_is_one_line_with_six_fields(path: Path) -> None:
    assert open_log(path).append("update.refused", DIGEST, "norm 3.1 is above 1.0", "bank-a") == 0
    assert path.read_bytes() == (
        b'{"action":"update.refused","actor":"bank-a","object":"' + DIGEST.encode() + b'",'
        b'"result":"norm 3.1 is above 1.0","seq":0,"utc":"2026-03-01T12:00:00.000+00:00"}\n'
    )


def test_both_files_are_their_owners_only(path: Path) -> None:
    with open_log(path) as log:
        fill(log, 1)
    assert [file.stat().st_mode & 0o777 for file in (path, checkpoints_of(path))] == [0o600, 0o600]
    assert sorted(file.name for file in path.parent.iterdir()) == ["evidence.checkpoints", "evidence.jsonl"]


@pytest.mark.parametrize(("count", "signed"), [(1, 0), (99, 0), (100, 100), (101, 100), (199, 100), (200, 200)])
def test_every_hundredth_entry_brings_a_checkpoint(path: Path, count: int, signed: int) -> None:
    fill(open_log(path, sync=False), count)
    found = verify_log(path, KEY.public.raw)
    assert (found.entries, found.signed, found.checkpoints) == (count, signed, signed // 100)


@pytest.mark.parametrize(("seconds", "signed"), [(59, 0), (60, 2), (3600, 2)])
def test_an_entry_waits_at_most_a_minute_for_its_checkpoint(path: Path, seconds: int, signed: int) -> None:
    times = iter([NOON, NOON + timedelta(seconds=seconds)])
    fill(open_log(path, clock=lambda: next(times)), 2)
    assert verify_log(path, KEY.public.raw).signed == signed


def test_closing_signs_what_is_left_and_only_that(path: Path) -> None:
    with open_log(path) as log:
        fill(log, 3)
    with open_log(path) as log:
        log.checkpoint()
    found = verify_log(path, KEY.public.raw)
    assert (found.entries, found.signed, found.checkpoints) == (3, 3, 1)


def test_a_checkpoint_counts_everything_and_is_given_again_while_nothing_is_added(path: Path) -> None:
    log = open_log(path)
    assert read_checkpoint(log.checkpoint(), KEY.public.raw, ORIGIN).size == 0
    fill(log, 3)
    note = log.checkpoint()
    assert read_checkpoint(note, KEY.public.raw, ORIGIN).size == 3
    assert log.checkpoint() == note == open_log(path).checkpoint() == verify_log(path, KEY.public.raw).note
    assert verify_log(path, KEY.public.raw).root == read_checkpoint(note, None).root.hex()


def test_a_log_goes_on_after_a_restart(path: Path) -> None:
    for _ in range(3):
        with open_log(path) as log:
            fill(log, 2)
    assert [json.loads(line)["seq"] for line in path.read_bytes().splitlines()] == list(range(6))
    assert verify_log(path, KEY.public.raw).checkpoints == 3


@pytest.mark.parametrize("first", [0, 1, 99, 100, 150, 250])
def test_a_log_shows_that_it_only_grew(path: Path, first: int) -> None:
    log = open_log(path, sync=False)
    fill(log, first)
    old = log.checkpoint()
    fill(log, 250 - first)
    note, proof = log.prove_growth(first)
    assert check_growth(old, note, proof, KEY.public.raw).size == 250
    assert verify_log(path, KEY.public.raw, [old]).entries == 250


def test_an_empty_log_grew_from_nothing(path: Path) -> None:
    note, proof = open_log(path).prove_growth(0)
    assert proof == [] and check_growth(note, note, proof, KEY.public.raw).size == 0


# --- cost --------------------------------------------------------------------------------------------------------


def test_appending_reads_nothing_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(open_log(path, sync=False), 150)
    reads: list[Path] = []
    real = module.follow_files
    monkeypatch.setattr(module, "follow_files", lambda trail, file: (reads.append(file), real(trail, file)))
    with open_log(path, sync=False) as log:
        fill(log, 150)
    assert reads == [path]


@pytest.mark.parametrize("sync", [True, False])
def test_an_entry_is_on_disk_before_append_returns_and_before_a_checkpoint_counts_it(
    path: Path, sync: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log(path, sync=sync)
    fill(log, INTERVAL - 1)
    done: list[str] = []

    def recorded(name: str, real: Callable[..., int | None]) -> Callable[..., int | None]:
        def call(descriptor: int, *rest: object) -> int | None:
            done.append(f"{name} {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
            return real(descriptor, *rest)

        return call

    for name in ("pwrite", "fsync"):
        monkeypatch.setattr(os, name, recorded(name, getattr(os, name)))
    fill(log, 1)
    entry = ["pwrite evidence.jsonl"] + ["fsync evidence.jsonl"] * sync
    assert done == [
        *entry,
        "fsync evidence.jsonl",
        "pwrite evidence.checkpoints",
        "fsync evidence.checkpoints",
        "fsync own",
    ]
    done.clear()
    fill(log, 1)
    assert done == entry


def test_a_log_that_nobody_told_otherwise_syncs_every_entry(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EvidenceLog(path, ORIGIN, KEY)
    fill(log, 1)
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    fill(log, 3)
    assert len(synced) == 3


# --- several writers ---------------------------------------------------------------------------------------------


def _append_many(path: Path, name: str, count: int) -> None:
    with open_log(path, sync=False, clock=lambda: datetime.now(UTC)) as log:
        for number in range(count):
            log.append("update.admitted", DIGEST, f"{number}", name)
            if number % 17 == 0:
                log.checkpoint()


@pytest.mark.parametrize("start", ["threads", "processes"])
def test_writers_cannot_interleave_or_lose_entries(path: Path, start: str) -> None:
    make = threading.Thread if start == "threads" else multiprocessing.get_context("fork").Process
    writers = [make(target=_append_many, args=(path, f"bank-{number}", 60)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    found = verify_log(path, KEY.public.raw)
    assert (found.entries, found.signed) == (240, 240)
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    for number in range(4):
        assert [row["result"] for row in rows if row["actor"] == f"bank-{number}"] == [str(n) for n in range(60)]


def test_threads_may_share_one_log(path: Path) -> None:
    with open_log(path, sync=False) as log:
        threads = [threading.Thread(target=fill, args=(log, 60)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert verify_log(path, KEY.public.raw).signed == 240


def test_a_checkpoint_that_another_process_wrote_is_not_written_over(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = open_log(path), open_log(path)
    fill(first, 2)
    fill(second, 1)
    note = first.checkpoint()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda *_: pytest.fail("written over"))
        patch.setattr(os, "ftruncate", lambda *_: pytest.fail("cut"))
        assert second.checkpoint() == note
    fill(second, 1)
    second.checkpoint()
    assert verify_log(path, KEY.public.raw, [note]).checkpoints == 2


@pytest.mark.parametrize("origin", ["", "two words", "a+b"])
def test_a_log_whose_checkpoints_could_not_be_read_is_not_begun(path: Path, origin: str) -> None:
    with pytest.raises(EvidenceError, match="no space, no plus"):
        EvidenceLog(path, origin, KEY)


# --- entries -----------------------------------------------------------------------------------------------------

FIELDS = {"action": "update.admitted", "object_digest": DIGEST, "result": "accepted", "actor": "bank-a"}
FORBIDDEN = [
    ("action", ""),
    ("action", "Update"),
    ("action", "update admitted"),
    ("action", "a" * 65),
    ("actor", ""),
    ("actor", "bank a"),
    ("actor", "bank-a\n"),
    ("actor", "b" * 65),
    ("object_digest", ""),
    ("object_digest", "My card was charged twice"),
    ("object_digest", "-----BEGIN PRIVATE KEY-----"),
    ("object_digest", "a" * 129),
]


@pytest.mark.parametrize(("name", "value"), FORBIDDEN)
def test_an_entry_holds_names_and_digests_and_nothing_else(path: Path, name: str, value: str) -> None:
    with pytest.raises(EvidenceError, match="Expected"):
        open_log(path).append(**{**FIELDS, name: value})
    assert not path.exists() or path.read_bytes() == b""


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("accepted", "accepted"),
        ("", "-"),
        ("two\nlines\x1b[31m", "two?lines?[31m"),
        ("é–銀", "é–銀"),
        ("x" * MAX_RESULT, "x" * MAX_RESULT),
        ("x" * (MAX_RESULT + 1), "x" * (MAX_RESULT - 1) + "…"),
        ("x" * 1_000_000, "x" * (MAX_RESULT - 1) + "…"),
    ],
)
def test_a_result_is_cut_to_one_printable_line(path: Path, text: str, stored: str) -> None:
    with open_log(path) as log:
        log.append(**{**FIELDS, "result": text})
    assert json.loads(path.read_bytes())["result"] == stored == one_line(text)
    assert verify_log(path, KEY.public.raw).entries == 1


def test_the_longest_entry_fits_into_a_line() -> None:
    for result in ("😀" * MAX_RESULT, '"' * MAX_RESULT):
        entry = Entry(10**15, "2026-03-01T12:00:00.000+00:00", "a" * 64, "a" * 64, "a" * 128, result)
        assert len(entry.line()) < MAX_LINE_BYTES and Entry.from_line(entry.line()) == entry
