import json
import runpy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fedbank.evidence.errors import EvidenceError
from fedbank.evidence.files import checkpoints_of, read_leaves
from fedbank.evidence.log import EvidenceLog
from fedbank.evidence.tree import root_of
from fedbank.evidence.verify import check_entry, check_growth, verify_log
from fedbank.sealing.keys import SigningKey

GOLDEN = Path(__file__).parents[1] / "golden"
VECTORS = json.loads((GOLDEN / "evidence.json").read_text("utf-8"))
KEY = bytes.fromhex(VECTORS["key"])


def write(folder: Path, log: dict[str, Any]) -> Path:
    path = folder / "evidence.jsonl"
    path.write_text("".join(f"{line}\n" for line in log["entries"]), "utf-8")
    checkpoints_of(path).write_text("".join(f"{line}\n" for line in log["checkpoints"]), "utf-8")
    return path


def test_the_vectors_are_those_that_their_script_writes() -> None:
    assert runpy.run_path(str(GOLDEN / "make_evidence.py"))["build"]() == VECTORS


@pytest.mark.parametrize("log", VECTORS["logs"], ids=lambda log: log["name"])
def test_logs_verify_and_are_refused_as_the_vectors_say(tmp_path: Path, log: dict[str, Any]) -> None:
    path = write(tmp_path, log)
    if log["first_bad"] is None:
        found = verify_log(path, KEY)
        assert found.entries == len(log["entries"]) and found.root == VECTORS["roots"][found.entries]
        return
    with pytest.raises(EvidenceError) as refused:
        verify_log(path, KEY)
    assert refused.value.index == log["first_bad"]


def test_a_log_is_written_as_the_vectors_say(tmp_path: Path) -> None:
    log, times = VECTORS["logs"][0], iter(datetime(2026, 3, 1, 12, tzinfo=UTC) + timedelta(seconds=n) for n in range(6))
    key = SigningKey(runpy.run_path(str(GOLDEN / "make_evidence.py"))["KEY"])
    path = tmp_path / "evidence.jsonl"
    own = EvidenceLog(path, VECTORS["origin"], key, clock=lambda: next(times))
    for number, line in enumerate(log["entries"]):
        entry = json.loads(line)
        own.append(entry["action"], entry["object"], entry["result"], entry["actor"])
        if number + 1 in (2, 5):
            own.checkpoint()
    assert path.read_text("utf-8").splitlines() == log["entries"]
    assert checkpoints_of(path).read_text("utf-8").splitlines() == log["checkpoints"]


def test_proofs_hold_as_the_vectors_say(tmp_path: Path) -> None:
    growth, inclusion, lines = VECTORS["growth"], VECTORS["inclusion"], VECTORS["logs"][0]["entries"]
    check_growth(growth["old"], growth["new"], [bytes.fromhex(step) for step in growth["proof"]], KEY)
    proof = [bytes.fromhex(step) for step in inclusion["proof"]]
    check_entry(lines[inclusion["index"]].encode(), inclusion["index"], inclusion["note"], proof, KEY)
    leaves = read_leaves(write(tmp_path, VECTORS["logs"][0]))
    assert [root_of(leaves[:size]).hex() for size in range(7)] == VECTORS["roots"]


@pytest.mark.parametrize("target", ["evidence.jsonl", "evidence.checkpoints"])
def test_every_flipped_byte_of_a_log_is_refused_or_leaves_less_signed(tmp_path: Path, target: str) -> None:
    log = VECTORS["logs"][0]
    path = write(tmp_path, {**log, "entries": log["entries"][:5]})
    content = (tmp_path / target).read_bytes()
    for position, byte in enumerate(content):
        changed = byte ^ (0x20 if position % 2 else 0x01)
        (tmp_path / target).write_bytes(content[:position] + bytes([changed]) + content[position + 1 :])
        try:  # only the last line's end may be missing: a crash does that too
            assert verify_log(path, KEY).signed == 2 and position == len(content) - 1
        except EvidenceError as error:
            assert error.index is not None


@pytest.mark.parametrize("target", ["evidence.jsonl", "evidence.checkpoints"])
def test_a_log_that_was_cut_anywhere_is_refused_or_has_less_signed(tmp_path: Path, target: str) -> None:
    log = VECTORS["logs"][0]
    path = write(tmp_path, {**log, "entries": log["entries"][:5]})
    content = (tmp_path / target).read_bytes()
    ends = [position for position, byte in enumerate(content) if byte == ord("\n")]
    for length in {*range(0, len(content), 5), *ends, *(end + 1 for end in ends[:-1]), len(content) - 1}:
        (tmp_path / target).write_bytes(content[:length])
        try:
            assert verify_log(path, KEY).signed < 5 and target == "evidence.checkpoints"
        except EvidenceError as error:
            assert error.index == content[:length].count(b"\n")
