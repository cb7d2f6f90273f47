"""The rollout on disk: what is served survives a restart, with everything that was seen of a candidate so far."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from fedbank.durable import write_atomic
from fedbank.errors import FedBankError
from fedbank.serving.rollout.stages import Candidate, Rollout, Stage, Tally

FORMAT = "fedbank-rollout/1"
_MAX_BYTES = 1 << 20
MAX_EVENTS = 100
_MOST, _LAST_BUCKET = 1 << 53, 160
"""Answers; a quarter octave of milliseconds: more than 30 years."""


class RolloutFileError(FedBankError):
    """The file is damaged."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a release, for the operator."""

    at: str
    action: str
    release: str
    said: str


@dataclass(frozen=True, slots=True)
class Kept:
    """The rollout, the release that was given up and is not tried again by itself, and what happened, newest first."""

    rollout: Rollout = field(default_factory=Rollout)
    set_aside: str | None = None
    events: tuple[Event, ...] = ()


def write_rollout(path: Path, kept: Kept) -> None:
    """On disk when this returns."""
    rollout = kept.rollout
    content = {
        "format": FORMAT,
        "stable": rollout.stable,
        "previous": rollout.previous,
        "candidate": _written(rollout.candidate) if rollout.candidate else None,
        "set_aside": kept.set_aside,
        "events": [asdict(event) for event in kept.events[:MAX_EVENTS]],
    }
    write_atomic(path, json.dumps(content, ensure_ascii=False, indent=1).encode())


def read_rollout(path: Path) -> Kept:
    """What ``write_rollout`` wrote; nothing before the first time.

    Raises:
        RolloutFileError: it holds something else.
    """
    try:
        with path.open("rb") as file:
            return _kept(json.loads(file.read(_MAX_BYTES)))
    except FileNotFoundError:
        return Kept()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError):
        raise RolloutFileError(
            f"Expected the stages of releases in {path}, got something else. Move the file away: the release that "
            "client sync adopted is then served at once."
        ) from None


def _kept(found: Mapping[str, Any]) -> Kept:
    if found["format"] != FORMAT:
        raise ValueError
    candidate = _read(found["candidate"]) if found["candidate"] is not None else None
    rollout = Rollout(_name(found["stable"]), _name(found["previous"]), candidate)
    names = [rollout.stable, rollout.previous, candidate.release if candidate else None]
    named = [name for name in names if name is not None]
    if len(set(named)) != len(named) or (named and rollout.stable is None):
        raise ValueError
    return Kept(rollout, _name(found["set_aside"]), tuple(_event(one) for one in found["events"][:MAX_EVENTS]))


def _written(candidate: Candidate) -> dict[str, Any]:
    return {**asdict(candidate), "since": candidate.since.isoformat()}


def _read(found: Mapping[str, Any]) -> Candidate:
    since, share = datetime.fromisoformat(found["since"]), found["share"]
    release = _name(found["release"])
    if release is None or since.tzinfo is None or not isinstance(share, float | int) or not 0 < share <= 1:
        raise ValueError
    stage = Stage(found["stage"])
    return Candidate(release, stage, float(share), since, _tally(found["seen"]), _tally(found["stable_seen"]))


def _tally(found: Mapping[str, Any]) -> Tally:
    counts = {int(bucket): _count(count, _MOST) for bucket, count in found["milliseconds"].items()}
    if any(not -1 < bucket <= _LAST_BUCKET for bucket in counts):
        raise ValueError
    answers, compared, probes = (_count(found[name], _MOST) for name in ("answers", "compared", "probes"))
    failures, agreed = _count(found["failures"], answers), _count(found["agreed"], compared)
    _count(sum(counts.values()), answers)
    return Tally(answers, failures, compared, agreed, probes, _count(found["probes_right"], probes), counts)


def _count(found: object, most: int) -> int:
    if type(found) is not int or not 0 <= found <= most:
        raise ValueError
    return found


def _event(found: Mapping[str, Any]) -> Event:
    event = Event(**found)
    if not all(isinstance(value, str) for value in found.values()):
        raise TypeError
    return event


def _name(found: object) -> str | None:
    if found is not None and (not isinstance(found, str) or not found):
        raise TypeError
    return found
