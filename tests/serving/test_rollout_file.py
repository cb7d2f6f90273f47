"""The rollout on disk: what was written is read again, anything else is told, a killed process leaves a whole file."""

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from bank_records import die, in_a_process

from fedbank.serving.rollout.file import MAX_EVENTS, Event, Kept, RolloutFileError, read_rollout, write_rollout
from fedbank.serving.rollout.stages import Candidate, Rollout, Stage, Tally

NOW = datetime(2027, 3, 1, 9, tzinfo=UTC)


def tally(rng: random.Random) -> Tally:
    counts = [rng.randrange(50) for _ in range(rng.randrange(1, 6))]
    answers = sum(counts) + rng.randrange(50)
    compared, probes = rng.randrange(99), rng.randrange(9)
    buckets = dict(zip(rng.sample(range(160), len(counts)), counts, strict=True))
    parts = rng.randint(0, compared), rng.randint(0, probes)
    return Tally(answers, rng.randint(0, answers), compared, parts[0], probes, parts[1], buckets)


def kept(seed: int) -> Kept:
    """Anything that can be."""
    rng = random.Random(seed)
    names = [f"release-{number}-发布" for number in range(4)]
    rng.shuffle(names)
    at = NOW.astimezone(timezone(timedelta(hours=rng.randrange(-9, 9)))) + timedelta(microseconds=rng.randrange(10**9))
    candidate = None
    if rng.random() < 0.7:
        candidate = Candidate(names[2], rng.choice(list(Stage)), rng.random() or 1.0, at, tally(rng), tally(rng))
    stable = None if candidate is None and rng.random() < 0.3 else names[0]
    rollout = Rollout(stable, names[1] if stable and rng.random() < 0.5 else None, candidate)
    events = tuple(
        Event(NOW.isoformat(), "release-stable", rng.choice(names), f'said "{number}"\n')
        for number in range(rng.randrange(5))
    )
    return Kept(rollout, rng.choice([None, names[3]]), events)


@pytest.mark.parametrize("seed", range(60))
def test_what_was_written_is_read_again(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rollout.json"
    write_rollout(path, kept(seed))
    assert read_rollout(path) == kept(seed)


def test_before_the_first_time_there_is_nothing(tmp_path: Path) -> None:
    assert read_rollout(tmp_path / "rollout.json") == Kept()


def test_the_newest_hundred_events_are_kept(tmp_path: Path) -> None:
    events = tuple(Event(NOW.isoformat(), "a", "b", f"{number:04d}" + "长" * 496) for number in range(MAX_EVENTS + 20))
    write_rollout(tmp_path / "rollout.json", Kept(events=events))
    assert read_rollout(tmp_path / "rollout.json").events == events[:MAX_EVENTS]


def changed(*where: str, to: object) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for name in where[:-1]:
            content = content[name]
        content[where[-1]] = to

    return change


CHANGES: dict[str, Callable[[dict[str, Any]], None]] = {
    "another format": changed("format", to="fedbank-rollout/2"),
    "no stable release beside a candidate": changed("stable", to=None),
    "the candidate is the stable one": changed("candidate", "release", to="spring"),
    "the one before is the stable one": changed("previous", to="spring"),
    "a name that is none": changed("stable", to=["spring"]),
    "an empty name": changed("candidate", "release", to=""),
    "an unknown stage": changed("candidate", "stage", to="everybody"),
    "a share of nobody": changed("candidate", "share", to=0),
    "a share of more than all": changed("candidate", "share", to=1.5),
    "a share that is no number": changed("candidate", "share", to=float("nan")),
    "a share in words": changed("candidate", "share", to="0.1"),
    "a moment without a zone": changed("candidate", "since", to="2027-03-01T09:00:00"),
    "no moment": changed("candidate", "since", to="yesterday"),
    "fewer than no answers": changed("candidate", "seen", "answers", to=-1),
    "more failures than answers": changed("candidate", "seen", "failures", to=11),
    "more agree than were compared": changed("candidate", "seen", "agreed", to=5),
    "more right than were asked": changed("candidate", "stable_seen", "probes_right", to=3),
    "half an answer": changed("candidate", "seen", "answers", to=10.5),
    "a truth for a number": changed("candidate", "seen", "probes", to=True),
    "more paces than answers": changed("candidate", "seen", "milliseconds", to={"4": 11}),
    "a pace beyond all numbers": changed("candidate", "seen", "milliseconds", to={"99999": 1}),
    "a pace that is none": changed("candidate", "seen", "milliseconds", to={"fast": 1}),
    "paces as a list": changed("candidate", "seen", "milliseconds", to=[1]),
    "an event with another field": changed("events", to=[{"at": "", "action": "", "release": "", "said": "", "x": ""}]),
    "an event of numbers": changed("events", to=[{"at": 1, "action": "", "release": "", "said": ""}]),
    "events that are none": changed("events", to=7),
    "no set_aside": lambda content: content.pop("set_aside"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_file_that_could_not_have_been_written_is_told(name: str, tmp_path: Path) -> None:
    path, seen = tmp_path / "rollout.json", Tally(10, 1, 4, 4, 2, 2, {4: 10})
    write_rollout(path, Kept(Rollout("spring", "winter", Candidate("autumn", Stage.SHADOW, 0.5, NOW, seen, seen))))
    content = json.loads(path.read_text())
    assert read_rollout(path).rollout.stable == "spring"
    CHANGES[name](content)
    path.write_text(json.dumps(content))
    with pytest.raises(RolloutFileError, match="Move the file away"):
        read_rollout(path)


BYTES: dict[str, bytes] = {
    "empty": b"",
    "cut short": b'{"format": "fedbank-rollout/1", "stable": "spr',
    "not UTF-8": b'{"format": "\xff\xfe"}',
    "a list": b"[]",
    "a number": b"7",
    "null": b"null",
    "deep": b"[" * 100_000,
    "a number of ten thousand digits": b'{"format": ' + b"9" * 10_000 + b"}",
    "more than a megabyte": b'{"format": "fedbank-rollout/1"' + b" " * (1 << 20) + b"}",
}


@pytest.mark.parametrize("name", BYTES)
def test_a_damaged_file_is_told(name: str, tmp_path: Path) -> None:
    (tmp_path / "rollout.json").write_bytes(BYTES[name])
    with pytest.raises(RolloutFileError):
        read_rollout(tmp_path / "rollout.json")


def test_a_folder_in_its_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "rollout.json").mkdir()
    with pytest.raises(RolloutFileError):
        read_rollout(tmp_path / "rollout.json")


@pytest.mark.parametrize("at", ["fsync", "replace"])
def test_a_process_that_is_killed_while_it_writes_leaves_the_file_before_or_after(
    at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rollout.json"
    write_rollout(path, kept(1))

    def killed() -> None:
        if at == "fsync":
            monkeypatch.setattr("os.fsync", lambda _: die())
        else:
            monkeypatch.setattr("fedbank.durable.sync_folder", lambda _: die())
        write_rollout(path, kept(2))

    assert in_a_process(killed) == -9
    assert read_rollout(path) == kept(1 if at == "fsync" else 2)
    write_rollout(path, kept(3))
    assert read_rollout(path) == kept(3)
