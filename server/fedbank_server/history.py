"""What a campaign did, one line for each committed round, appended and never changed.

While the updates of a round are kept, whoever has them can compute its aggregate again: ``recompute``.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedbank.adapter.state import Released, digest
from fedbank.adapter.update import Update
from fedbank.aggregation.admit import open_update
from fedbank.aggregation.rounds import Round
from fedbank.aggregation.rules import average
from fedbank.aggregation.terms import CampaignTerms
from fedbank.durable import append_durable, read_lines
from fedbank.errors import RunError
from fedbank.sealing.keys import PublicKey
from fedbank_server.round_store import RoundStore
from fedbank_server.writing import writing

_TYPES = {"round": int, "attempt": int, "base": str, "adapter": str, "change": str, "began": str, "committed": str}
_PARTS = {"accepted": dict, "left_out": dict, "refused": list, "refused_more": int, "missing": list, "aborted": list}


@dataclass(frozen=True, slots=True)
class CommittedLine:
    """A committed round: ``base`` and ``adapter`` are the adapter's digests before and after, ``change`` the average's.

    ``accepted``: per bank the digest of its signed update, the key that signed it, its bytes, its seconds since the
    round began, its norm and its weight in this round. ``left_out``: per bank an update that was admitted and did not
    count, its digest, its norm and the bound that it exceeded. ``refused``: what was not used, by which check and why.
    ``missing``: no update was admitted. ``aborted``: attempts before. Times are UTC (ISO 8601).
    """

    round: int
    attempt: int
    base: str
    adapter: str
    change: str
    began: str
    committed: str
    accepted: Mapping[str, Mapping[str, Any]]
    refused: list[Mapping[str, str]]
    refused_more: int
    missing: list[str]
    aborted: list[Mapping[str, Any]]
    left_out: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, terms: CampaignTerms, record: Round, adapter: str, change: str, now: float) -> "CommittedLine":
        """The line of a round that is on disk."""
        weights = terms.weights_of(record.accepted)
        accepted = {bank: {**asdict(value), "weight": weights[bank]} for bank, value in record.accepted.items()}
        return cls(
            record.number,
            record.attempt,
            record.base_digest,
            adapter,
            change,
            iso(record.began),
            iso(now),
            dict(sorted(accepted.items())),
            [asdict(refused) for refused in record.refused],
            record.refused_more,
            sorted(terms.weights.keys() - record.accepted.keys() - record.left_out.keys()),
            [{**asdict(aborted), "at": iso(aborted.at)} for aborted in record.aborted],
            {bank: asdict(value) for bank, value in sorted(record.left_out.items())},
        )


class History:
    """The lines in ``path`` (``None``: in memory only); ``sync=False`` as in ``CampaignStore``."""

    def __init__(self, path: Path | None, *, sync: bool = True) -> None:
        self._path = path
        self._sync = sync
        self._lines: list[CommittedLine] | None = [] if path is None else None

    def append(self, line: CommittedLine) -> None:
        """Write the line of the next round; ``RunError`` if its round is in already."""
        lines = self.lines()
        if lines and line.round <= lines[-1].round:
            raise RunError(
                f"Expected {self._path} to end before round {line.round}, got round {lines[-1].round} there. "
                "Restore the campaign's folder from one backup."
            )
        if self._path is not None:
            self._write(self._path, line)
        lines.append(line)

    def _write(self, path: Path, line: CommittedLine) -> None:
        with writing(path):
            append_durable(path, json.dumps(asdict(line), sort_keys=True).encode(), sync=self._sync)

    def lines(self) -> list[CommittedLine]:
        """All lines, oldest first; ``RunError`` naming the first damaged one. A line that a crash cut is not there."""
        if self._lines is None and self._path is not None:
            self._lines = [self._parse(number, line) for number, line in enumerate(read_lines(self._path), start=1)]
        return self._lines if self._lines is not None else []

    def seconds(self, window: int) -> dict[str, list[float]]:
        """How long each bank took in the last ``window`` rounds that it was part of, oldest first."""
        found: dict[str, list[float]] = {}
        for line in reversed(self.lines()):
            for bank, value in line.accepted.items():
                if len(found.setdefault(bank, [])) < window:
                    found[bank].insert(0, float(value["seconds"]))
        return found

    def _parse(self, number: int, line: bytes) -> CommittedLine:
        try:
            fields = {"left_out": {}} | json.loads(line)  # a round before anything could be left out
            wrong = [name for name, kind in {**_TYPES, **_PARTS}.items() if type(fields[name]) is not kind]
            if wrong:
                raise TypeError(f"{wrong[0]} is of another type")
            return CommittedLine(**fields)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise RunError(
                f"Expected a committed round in line {number} of {self._path}, got something else. Restore the file "
                "from a backup."
            ) from error


def recompute(terms: CampaignTerms, line: CommittedLine, rounds: RoundStore) -> str:
    """The digest of the average change, from the kept updates; equal to ``line.change`` if the line is true.

    Every update is verified anew: signature, then digest. ``RunError`` or ``UpdateError`` if one is missing or another.
    """

    def read(bank: str) -> Released:
        return read_update(terms, rounds, line.round, bank, line.accepted[bank]["key"], line.accepted[bank]["digest"])

    banks = sorted(line.accepted)
    weights = terms.weights_of(banks)
    return digest(average(map(read, banks), [weights[bank] for bank in banks]))


def read_update(
    terms: CampaignTerms, rounds: RoundStore, round_number: int, bank: str, key: str, expected_digest: str
) -> Released:
    """The tensors of a stored update, if it is still the one that was accepted."""
    opened = open_update(rounds.read(round_number, bank), terms, {bank: PublicKey.from_hex(key)}.get)
    if opened.digest != expected_digest:
        raise RunError(
            f"Expected the update of {bank} to round {round_number} that was accepted ({expected_digest[:12]}), got "
            f"another one ({opened.digest[:12]}). Restore it from a backup."
        )
    return Update.from_bytes(bytes(opened.payload), terms.adapter).tensors


def iso(seconds: float) -> str:
    """A moment as UTC text, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
