import base64
import json
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fedbank.errors import FedBankError
from fedbank.evidence.errors import EvidenceError
from fedbank.evidence.files import checkpoints_of, read_entry_lines, read_leaves
from fedbank.evidence.log import EvidenceLog
from fedbank.evidence.note import Checkpoint, sign_checkpoint
from fedbank.evidence.trail import checkpoint_line
from fedbank.evidence.tree import leaf_hash, prove_inclusion, root_of
from fedbank.evidence.verify import Verified, check_entry, verify_log
from fedbank.sealing.keys import SigningKey

KEY, FORGER = SigningKey.derived("log"), SigningKey.derived("forger")
ORIGIN, DIGEST = "nordic.example/coordinator", "ab" * 32
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
Lines = list[bytes]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """270 entries; checkpoints at 100, 200 and 250; the last 20 entries are unsigned."""
    path = tmp_path_factory.mktemp("log") / "evidence.jsonl"
    log = EvidenceLog(path, ORIGIN, KEY, sync=False, clock=lambda: NOON)
    for number in range(270):
        log.append("update.admitted", DIGEST, f"norm {number}", "bank-a")
        if number == 249:
            log.checkpoint()
    return path


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "evidence.jsonl"
    copy.write_bytes(original.read_bytes())
    checkpoints_of(copy).write_bytes(checkpoints_of(original).read_bytes())
    return copy


def verify(path: Path, key: bytes | None = KEY.public.raw) -> Verified:
    return verify_log(path, key)


def renumbered(lines: Lines) -> Lines:
    return [
        json.dumps({**json.loads(line), "seq": number}, sort_keys=True, separators=(",", ":")).encode()
        for number, line in enumerate(lines)
    ]


def edited(line: bytes) -> bytes:
    return line.replace(b"norm ", b"norm -")


def at(number: int, change: Callable[[bytes], bytes]) -> Callable[[Lines], Lines]:
    return lambda lines: [*lines[:number], change(lines[number]), *lines[number + 1 :]]


def without(number: int) -> Callable[[Lines], Lines]:
    return lambda lines: lines[:number] + lines[number + 1 :]


def swapped(number: int) -> Callable[[Lines], Lines]:
    return lambda lines: [*lines[:number], lines[number + 1], lines[number], *lines[number + 2 :]]


def test_a_log_that_nobody_touched_verifies(path: Path) -> None:
    found = verify(path)
    assert (found.entries, found.checkpoints, found.signed) == (270, 3, 250)
    assert found.root == root_of(read_leaves(path)).hex()
    assert verify(path, None) == found


ENTRY_CHANGES: dict[str, tuple[Callable[[Lines], Lines], int]] = {
    "edited-first": (at(0, edited), 0),
    "edited-middle": (at(42, edited), 42),
    "edited-behind-a-checkpoint": (at(100, edited), 100),
    "edited-before-a-checkpoint": (at(199, edited), 199),
    "edited-last-signed": (at(249, edited), 249),
    "edited-twice": (lambda lines: at(77, edited)(at(33, edited)(lines)), 33),
    "edited-and-later-removed": (lambda lines: without(60)(at(33, edited)(lines)), 33),
    "time-changed": (at(42, lambda line: line.replace(b"T12:", b"T11:")), 42),
    "actor-changed": (at(42, lambda line: line.replace(b"bank-a", b"bank-b")), 42),
    "removed-first": (without(0), 0),
    "removed-middle": (without(142), 142),
    "removed-and-renumbered": (lambda lines: renumbered(without(142)(lines)), 142),
    "removed-unsigned": (without(260), 260),
    "inserted-copy": (lambda lines: [*lines[:42], lines[41], *lines[42:]], 42),
    "inserted-and-renumbered": (lambda lines: renumbered([*lines[:42], lines[7], *lines[42:]]), 42),
    "inserted-unsigned": (lambda lines: [*lines[:260], lines[7], *lines[260:]], 260),
    "moved": (swapped(42), 42),
    "moved-and-renumbered": (lambda lines: renumbered(swapped(42)(lines)), 42),
    "moved-across-a-checkpoint": (swapped(99), 99),
    "moved-unsigned": (swapped(260), 260),
    "reversed": (lambda lines: lines[::-1], 0),
    "cut-below-the-last-checkpoint": (lambda lines: lines[:249], 249),
    "cut-to-the-second-checkpoint": (lambda lines: lines[:200], 200),
    "cut-to-one": (lambda lines: lines[:1], 1),
    "emptied": (lambda lines: [], 0),
    "not-json": (at(42, lambda line: b"hello"), 42),
    "empty-line": (at(42, lambda line: b""), 42),
    "list": (at(42, lambda line: b"[1]"), 42),
    "not-utf8": (at(42, lambda line: b"\xff"), 42),
    "too-deep": (at(42, lambda line: b"[" * 2000), 42),
    "too-long": (at(42, lambda line: line + b" " * 5_000_000), 42),
    "spaces": (at(42, lambda line: line.replace(b":", b": ", 1)), 42),
    "field-twice": (at(42, lambda line: line.replace(b"{", b'{"seq":42,')), 42),
    "field-added": (at(42, lambda line: line.replace(b"{", b'{"aaa":1,')), 42),
    "field-missing": (at(42, lambda line: line.replace(b'"actor":"bank-a",', b"")), 42),
    "number-as-text": (at(42, lambda line: line.replace(b'"seq":42', b'"seq":"42"')), 42),
    "number-as-float": (at(42, lambda line: line.replace(b'"seq":42', b'"seq":42.0')), 42),
    "result-number": (at(42, lambda line: line.replace(b'"norm 42"', b"42")), 42),
    "no-such-day": (at(42, lambda line: line.replace(b"-03-01T", b"-02-30T")), 42),
    "spaces-unsigned": (at(265, lambda line: line.replace(b":", b": ", 1)), 265),
    "field-twice-unsigned": (at(265, lambda line: line.replace(b"{", b'{"seq":265,')), 265),
    "number-as-float-unsigned": (at(265, lambda line: line.replace(b'"seq":265', b'"seq":265.0')), 265),
    "too-long-unsigned": (at(265, lambda line: line + b" " * 3000), 265),
    "not-json-unsigned": (at(265, lambda line: b"hello"), 265),
}


@pytest.mark.parametrize("key", [KEY.public.raw, None], ids=["key", "no-key"])
@pytest.mark.parametrize(("change", "index"), ENTRY_CHANGES.values(), ids=ENTRY_CHANGES.keys())
def test_the_first_bad_entry_is_named(
    path: Path, change: Callable[[Lines], Lines], index: int, key: bytes | None
) -> None:
    path.write_bytes(b"".join(line + b"\n" for line in change(path.read_bytes().splitlines())))
    with pytest.raises(EvidenceError, match=f"{index}") as refused:
        verify(path, key)
    assert refused.value.index == index
    assert isinstance(refused.value, FedBankError) and str(refused.value).startswith("Expected ")
    assert len(str(refused.value)) < 700


def checkpoint(line: bytes) -> tuple[str, Lines]:
    record = json.loads(line)
    joined = base64.b64decode(record["leaves"])
    return record["note"], [joined[start : start + 32] for start in range(0, len(joined), 32)]


def relisted(line: bytes, leaves: Lines) -> bytes:
    return checkpoint_line(checkpoint(line)[0], b"".join(leaves))


def forged(line: bytes, key: SigningKey = FORGER, origin: str = ORIGIN, size: int = 200) -> bytes:
    """A checkpoint over what the list says, signed by somebody else."""
    _, leaves = checkpoint(line)
    first = [leaf_hash(b"any")] * (size - len(leaves))
    return checkpoint_line(sign_checkpoint(Checkpoint(origin, size, root_of(first + leaves)), key), b"".join(leaves))


CHECKPOINT_CHANGES: dict[str, tuple[Callable[[Lines], Lines], int, str]] = {
    "forged": (at(1, forged), 100, "checkpoint 1 .*got none"),
    "of-another-log": (at(1, lambda line: forged(line, KEY, "other.example")), 100, "checkpoint 1 .*other.example"),
    "root-changed": (at(1, lambda line: line.replace(b"\\n200\\n", b"\\n200\\nA")), 100, "checkpoint 1"),
    "size-changed": (at(1, lambda line: line.replace(b"\\n200\\n", b"\\n201\\n")), 100, "checkpoint 1 .*forged"),
    "signature-changed": (at(1, lambda line: line[:-20] + b"AAAA" + line[-16:]), 100, "checkpoint 1 "),
    "hashes-changed": (
        at(1, lambda line: relisted(line, [bytes(32), *checkpoint(line)[1][1:]])),
        100,
        "its list of hashes was changed, the entries were not",
    ),
    "hashes-removed": (at(1, lambda line: relisted(line, checkpoint(line)[1][:-1])), 100, "lists 99 new"),
    "hashes-added": (at(1, lambda line: relisted(line, [*checkpoint(line)[1], bytes(32)])), 100, "lists 101 new"),
    "hashes-cut": (at(1, lambda line: relisted(line, [*checkpoint(line)[1][:-1], bytes(31)])), 100, "lists 99 new"),
    "no-hashes": (at(1, lambda line: relisted(line, [])), 100, "lists 0 new"),
    "removed": (without(1), 100, "counts 250 entries and lists 50 new"),
    "removed-first": (without(0), 0, "counts 200 entries and lists 100 new"),
    "doubled": (lambda lines: [lines[0], *lines], 100, "counts 100 entries"),
    "moved": (swapped(0), 0, "counts 200 entries"),
    "all-removed": (lambda lines: [], 0, "checkpoints were removed"),
    "last-two-removed": (lambda lines: lines[:1], 100, "checkpoints were removed"),
    "not-json": (at(1, lambda line: b"hello"), 100, "checkpoint 1"),
    "not-an-object": (at(1, lambda line: b"[]"), 100, "checkpoint 1"),
    "too-deep": (at(1, lambda line: b"[" * 10_000), 100, "checkpoint 1"),
    "too-long": (at(1, lambda line: line + b" " * 50_000), 100, "too long"),
    "spaces": (at(1, lambda line: line.replace(b":", b": ", 1)), 100, "canonical form"),
    "field-added": (at(1, lambda line: line.replace(b"{", b'{"a":1,')), 100, "canonical form"),
    "field-missing": (at(1, lambda line: b'{"leaves":""}'), 100, "note"),
    "note-number": (at(1, lambda line: b'{"leaves":"","note":7}'), 100, "checkpoint 1"),
    "hashes-not-base64": (at(1, lambda line: line.replace(b'{"leaves":"', b'{"leaves":"!')), 100, "checkpoint 1"),
}


@pytest.mark.parametrize(("change", "index", "match"), CHECKPOINT_CHANGES.values(), ids=CHECKPOINT_CHANGES.keys())
def test_a_checkpoint_that_cannot_be_relied_on_is_named(
    path: Path, change: Callable[[Lines], Lines], index: int, match: str
) -> None:
    beside = checkpoints_of(path)
    beside.write_bytes(b"".join(line + b"\n" for line in change(beside.read_bytes().splitlines())))
    with pytest.raises(EvidenceError, match=match) as refused:
        verify(path)
    assert refused.value.index == index


@pytest.mark.parametrize("number", [100, 142, 199])
def test_an_entry_that_was_changed_together_with_its_hash_is_found_between_two_checkpoints(
    path: Path, number: int
) -> None:
    path.write_bytes(b"".join(line + b"\n" for line in at(number, edited)(path.read_bytes().splitlines())))
    beside = checkpoints_of(path)
    lines = beside.read_bytes().splitlines()
    lines[1] = relisted(lines[1], read_leaves(path)[100:200])
    beside.write_bytes(b"".join(line + b"\n" for line in lines))
    with pytest.raises(EvidenceError, match="the entries 100 to 199 that checkpoint 1 signed") as refused:
        verify(path)
    assert refused.value.index == 100


def test_a_log_that_was_made_up_as_a_whole_needs_the_key_to_be_noticed(tmp_path: Path) -> None:
    path = tmp_path / "evidence.jsonl"
    with EvidenceLog(path, ORIGIN, FORGER) as log:
        log.append("update.admitted", DIGEST, "accepted", "bank-a")
    assert verify(path, None).signed == 1
    with pytest.raises(EvidenceError, match=r"checkpoint 0 .*got none") as refused:
        verify(path)
    assert refused.value.index == 0


def test_a_checkpoint_that_was_seen_earlier_convicts_an_older_copy(path: Path) -> None:
    notes = [checkpoint(line)[0] for line in checkpoints_of(path).read_bytes().splitlines()]
    assert verify_log(path, KEY.public.raw, notes).signed == 250
    path.write_bytes(b"".join(line + b"\n" for line in path.read_bytes().splitlines()[:220]))
    beside = checkpoints_of(path)
    beside.write_bytes(b"".join(beside.read_bytes().splitlines(keepends=True)[:2]))
    assert verify(path).entries == 220
    with pytest.raises(EvidenceError, match=r"at least 250 entries.*got 220") as refused:
        verify_log(path, KEY.public.raw, notes)
    assert refused.value.index == 220


def test_a_checkpoint_that_was_seen_earlier_convicts_another_history(path: Path, tmp_path: Path) -> None:
    note = checkpoint(checkpoints_of(path).read_bytes().splitlines()[2])[0]
    other = tmp_path / "other" / "evidence.jsonl"
    with EvidenceLog(other, ORIGIN, KEY, sync=False) as log:
        for number in range(260):
            log.append("update.admitted", DIGEST, f"norm {number}", "bank-b")
    with pytest.raises(EvidenceError, match="rewritten since"):
        verify_log(other, KEY.public.raw, [note])
    with pytest.raises(EvidenceError, match="got none"):
        verify_log(path, KEY.public.raw, [sign_checkpoint(Checkpoint(ORIGIN, 1, bytes(32)), FORGER)])


def test_one_entry_can_be_shown_to_be_in_the_log(path: Path) -> None:
    note = verify(path).note
    lines, leaves = read_entry_lines(path, last=270), read_leaves(path)[:250]
    for index in (0, 99, 100, 249):
        proof = prove_inclusion(leaves, index)
        check_entry(lines[index], index, note, proof, KEY.public.raw)
        with pytest.raises(EvidenceError, match="proof"):
            check_entry(edited(lines[index]), index, note, proof, KEY.public.raw)
        with pytest.raises(EvidenceError, match="got none"):
            check_entry(lines[index], index, note, proof, FORGER.public.raw)


@pytest.mark.parametrize("target", ["evidence.jsonl", "evidence.checkpoints"])
def test_a_line_without_end_costs_no_memory(path: Path, target: str) -> None:
    (path.parent / target).write_bytes(b"x" * 20_000_000)
    tracemalloc.start()
    with pytest.raises(EvidenceError):
        verify(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize("missing", ["file", "folder"])
def test_a_log_that_is_not_there_is_an_error_and_stays_away(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "evidence.jsonl" if missing == "file" else tmp_path / "none" / "evidence.jsonl"
    with pytest.raises(EvidenceError, match="No such file"):
        verify(path)
    assert list(tmp_path.iterdir()) == []
