"""The ledger: what is charged is on disk, what was cut off is dropped, what was edited is refused."""

import dataclasses
import json
import os
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


def test_a_charge_is_synced_to_disk_before_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    path = tmp_path / "bank" / "ledger.jsonl"
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        synced.append(path.read_bytes() if path.exists() else b"")

    monkeypatch.setattr(os, "fsync", fsync)
    assert Ledger(path).charge(CHARGE, max_steps=MAX_STEPS)
    assert synced[0] == path.read_bytes()
    assert json.loads(synced[0]) == dataclasses.asdict(CHARGE)


def test_the_same_release_computed_again_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    assert Ledger(path).charge(CHARGE, max_steps=MAX_STEPS)
    assert not Ledger(path).charge(CHARGE, max_steps=MAX_STEPS)
    assert Ledger(path).charges() == [CHARGE]


@pytest.mark.parametrize("other", OTHERS, ids=lambda charge: str(dataclasses.astuple(charge)))
def test_any_difference_is_a_charge_of_its_own(tmp_path: Path, other: Charge) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.charge(CHARGE, max_steps=MAX_STEPS)
    assert ledger.charge(other, max_steps=MAX_STEPS)
    assert ledger.charges() == [CHARGE, other]


@pytest.mark.parametrize("difference", DIFFERENCES, ids=str)
def test_one_stream_never_covers_two_releases(tmp_path: Path, difference: dict[str, object]) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.charge(CHARGE, max_steps=MAX_STEPS)
    with pytest.raises(PrivacyError, match="no noise"):
        ledger.charge(dataclasses.replace(CHARGE, **difference), max_steps=MAX_STEPS)
    assert ledger.charges() == [CHARGE]


@pytest.mark.parametrize("replay_id", [None, "stream-2"])
def test_a_campaign_keeps_its_plan(tmp_path: Path, replay_id: str | None) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.charge(CHARGE, max_steps=MAX_STEPS)
    with pytest.raises(PrivacyError, match="another plan"):
        ledger.charge(dataclasses.replace(CHARGE, plan_digest="d2", replay_id=replay_id), max_steps=MAX_STEPS)
    assert ledger.charges() == [CHARGE]


@pytest.mark.parametrize(("max_steps", "charged"), [(4, 0), (5, 1), (14, 2), (15, 3)])
def test_a_campaign_never_passes_its_steps(tmp_path: Path, max_steps: int, charged: int) -> None:
    ledger, fresh = Ledger(tmp_path / "ledger.jsonl"), dataclasses.replace(CHARGE, replay_id=None)
    for _ in range(charged):
        ledger.charge(fresh, max_steps=max_steps)
    with pytest.raises(PrivacyError, match=f"accounts for {max_steps}"):
        ledger.charge(fresh, max_steps=max_steps)
    assert len(ledger.charges()) == charged
    assert ledger.charge(dataclasses.replace(fresh, campaign="autumn"), max_steps=5)


def test_fresh_noise_is_charged_every_time(tmp_path: Path) -> None:
    ledger, fresh = Ledger(tmp_path / "ledger.jsonl"), dataclasses.replace(CHARGE, replay_id=None)
    assert [ledger.charge(fresh, max_steps=MAX_STEPS) for _ in range(3)] == [True] * 3
    assert ledger.charges() == [fresh] * 3


def test_charges_survive_a_restart_in_order(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    for charge in OTHERS:
        Ledger(path).charge(charge, max_steps=MAX_STEPS)
    assert Ledger(path).charges() == OTHERS


def test_an_absent_ledger_has_no_charges(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "ledger.jsonl").charges() == []


@pytest.mark.parametrize("cut", range(1, 40, 6))
def test_a_last_line_that_a_crash_cut_short_is_dropped(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.charge(CHARGE, max_steps=MAX_STEPS)
    ledger.charge(OTHERS[0], max_steps=MAX_STEPS)
    path.write_bytes(path.read_bytes()[:-cut])
    assert ledger.charges() == [CHARGE]
    assert ledger.charge(OTHERS[0], max_steps=MAX_STEPS)
    assert ledger.charges() == [CHARGE, OTHERS[0]]


EDITS = {
    "not-json": lambda line: b"hello",
    "empty": lambda line: b"",
    "not-an-object": lambda line: b"[1, 2]",
    "number": lambda line: b"7",
    "not-utf8": lambda line: b"\xff\xfe",
    "field-missing": lambda line: line.replace(b'"num_steps": 5, ', b""),
    "field-added": lambda line: line.replace(b"{", b'{"note": 1, ', 1),
    "field-renamed": lambda line: line.replace(b"num_steps", b"nom_steps"),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
@pytest.mark.parametrize("replay_id", ["stream-1", None], ids=["derived", "secure"])
def test_an_edited_line_is_refused_and_nothing_is_charged(tmp_path: Path, edit: object, replay_id: str | None) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.charge(CHARGE, max_steps=MAX_STEPS)
    first = path.read_bytes()
    ledger.charge(OTHERS[0], max_steps=MAX_STEPS)
    damaged = edit(first[:-1]) + b"\n" + path.read_bytes()[len(first) :]
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    with pytest.raises(PrivacyError, match="line 1"):
        ledger.charges()
    with pytest.raises(PrivacyError, match="line 1"):
        ledger.charge(dataclasses.replace(CHARGE, round=9, replay_id=replay_id), max_steps=MAX_STEPS)
    assert path.read_bytes() == damaged
