"""The ledger: what a charge is, that it is on disk before it counts, and what a crash leaves behind."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest
from ledger_files import CHARGE, DIFFERENCES, FRESH, MAX_STEPS, OTHERS, fill, head_of, open_ledger

from fedbank.errors import PrivacyError
from fedbank.privacy import ledger as module
from fedbank.privacy.ledger import Charge, Ledger, read_ledger


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


def test_a_simulations_ledger_waits_for_no_disk_and_is_whole_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    assert Ledger(path, "bank", sync=False).charge(CHARGE, max_steps=MAX_STEPS)
    assert not synced
    assert len(read_ledger(path).charges) == 1


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
