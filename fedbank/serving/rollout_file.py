"""The rollout on disk: what is served survives a restart, with everything that was seen of a candidate so far."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from fedbank.durable import write_atomic
from fedbank.errors import FedBankError
from fedbank.serving.rollout import Candidate, Rollout, Stage, Tally

FORMAT = "fedbank-rollout/1"
_MAX_BYTES = 1 << 20
MAX_EVENTS = 100


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
    if not path.exists():
        return Kept()
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_MAX_BYTES))
        if found["format"] != FORMAT:
            raise ValueError
        candidate = _read(found["candidate"]) if found["candidate"] is not None else None
        rollout = Rollout(_name(found["stable"]), _name(found["previous"]), candidate)
        return Kept(rollout, _name(found["set_aside"]), tuple(Event(**event) for event in found["events"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise RolloutFileError(
            f"Expected the stages of releases in {path}, got something else. Move the file away: the release that "
            "client sync adopted is then served at once."
        ) from None


def _written(candidate: Candidate) -> dict[str, Any]:
    return {**asdict(candidate), "since": candidate.since.isoformat()}


def _read(found: Mapping[str, Any]) -> Candidate:
    return Candidate(
        str(found["release"]),
        Stage(found["stage"]),
        float(found["share"]),
        datetime.fromisoformat(found["since"]),
        _tally(found["seen"]),
        _tally(found["stable_seen"]),
    )


def _tally(found: Mapping[str, Any]) -> Tally:
    counts = {int(bucket): int(count) for bucket, count in found["milliseconds"].items()}
    answers, failures, compared, agreed, probes, right = (
        int(found[name]) for name in ("answers", "failures", "compared", "agreed", "probes", "probes_right")
    )
    return Tally(answers, failures, compared, agreed, probes, right, counts)


def _name(found: object) -> str | None:
    if found is not None and not isinstance(found, str):
        raise TypeError
    return found
