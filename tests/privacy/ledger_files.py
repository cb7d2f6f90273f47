"""Charges, ledgers on disk and what a refused ledger must look like, for all tests of the ledger."""

import dataclasses
from pathlib import Path

import pytest

from fedbank.errors import PrivacyError
from fedbank.privacy.ledger import Charge, Ledger

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
