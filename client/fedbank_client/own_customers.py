"""How a release does on this bank's own held-out customers: for a person in this bank, and for nobody else.

Whoever makes a release can craft it so that one customer decides whether it is better or worse than the base model.
Whether a bank signs or adopts is seen outside, without noise. So no program of ours goes by these figures: they are
shown to a person, who decides, and are kept in a file that is no evidence (docs/adr/0015-a-review-is-a-persons.md).
"""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedbank.command_line import now
from fedbank.durable import write_atomic
from fedbank.membership.folders import utc
from fedbank.release.build import Scores
from fedbank.release.errors import ReleaseError
from fedbank_client.adoption import score_apart

PRIVATE = "own-customers.json"
"""In the bank's folder: the figures of the last releases that were looked at. It is never handed over."""
_KEPT = 50


@dataclass(frozen=True, slots=True)
class OwnScores:
    """Mean nats per answer token (nll) over ``scores.records``; ``None`` if they could not be computed: ``problem``."""

    scores: Scores | None
    problem: str = ""

    def sentence(self) -> str:
        """One line with the figures and what they recommend."""
        if self.scores is None:
            return f"no figures, {self.problem}"
        before, after = self.scores.base["nll"], self.scores.adapter["nll"]
        return f"nll {before:.4f} -> {after:.4f}, {self.scores.records} records: {_advice(before, after)}"


def look(adapter: Path, overrides: Sequence[str]) -> OwnScores:
    """Score ``adapter`` in a process apart; whatever happens there is something to show, and never an error."""
    try:
        return OwnScores(score_apart(adapter, overrides))
    except ReleaseError as error:
        return OwnScores(None, str(error).encode("ascii", "replace").decode())  # every terminal can show it


def keep(folder: Path, release: str, found: OwnScores) -> None:
    """Keep what was found of ``release`` in the bank's private file; the oldest go."""
    others = [line for line in _kept(folder) if line["release"] != release]
    line = {"release": release, "looked": utc(now()), "said": found.sentence()}
    content = json.dumps([*others, line][-_KEPT:], indent=1)
    write_atomic(folder / PRIVATE, content.encode(), mode=0o600)


def kept_sentence(folder: Path, release: str) -> str | None:
    """What was found of ``release`` when somebody looked last; ``None`` if nobody did."""
    return next((str(line["said"]) for line in _kept(folder) if line["release"] == release), None)


def is_somebody_here() -> bool:
    """Whether a question can be put to a person."""
    return sys.stdin.isatty()


def ask(question: str) -> bool:
    """Put ``question`` to the person at the terminal; only a typed yes is one."""
    sys.stderr.write(f"{question} Type yes, or anything else for no: ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() == "yes"


def _kept(folder: Path) -> list[dict[str, Any]]:
    """The lines of the private file; a damaged one counts as empty, since nothing goes by it."""
    try:
        found = json.loads((folder / PRIVATE).read_bytes())
        return [line for line in found if isinstance(line, dict) and {"release", "said"} <= line.keys()]
    except (OSError, ValueError, TypeError, RecursionError):
        return []


def _advice(before: float, after: float) -> str:
    if math.isnan(before) or math.isnan(after):
        return "NO NUMBER: the adapter does not answer them. We would not take it"
    if after > before:
        return "WORSE with the adapter. We would not take it"
    return "better with the adapter" if after < before else "the same with the adapter"
