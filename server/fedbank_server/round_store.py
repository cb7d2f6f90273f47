"""What there is of a round that is not committed yet: its record, and every update that was admitted to it.

An update is a file of its own, named after round and bank, written whole or not at all; it counts from the moment
that it has its name. It is the signed envelope as it came, so whoever reads it again can verify it again.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from fedbank.adapter.state import Released
from fedbank.adapter.update import Update
from fedbank.aggregation.admit import Refused
from fedbank.aggregation.influence import LeftOut
from fedbank.aggregation.rounds import Aborted, Accepted, Phase, Round
from fedbank.durable import write_atomic
from fedbank.errors import RunError
from fedbank_server.writing import writing

_SUFFIX = ".update"


@dataclass(frozen=True, slots=True)
class Kept:
    """A stored update: whose it is by its name, and when it was stored (seconds since 1970)."""

    bank: str
    path: Path
    stored: float


class RoundStore:
    """``round.json`` and ``updates/`` in ``folder``; ``sync=False`` as in ``CampaignStore``."""

    def __init__(self, folder: Path, *, sync: bool = True) -> None:
        self._path = folder / "round.json"
        self._updates = folder / "updates"
        self._sync = sync

    def save(self, record: Round) -> None:
        """Replace the record."""
        with writing(self._path):
            write_atomic(self._path, json.dumps(asdict(record), sort_keys=True).encode(), sync=self._sync)

    def load(self) -> Round | None:
        """The record, ``None`` if there is none; ``RunError`` if it is damaged."""
        if not self._path.exists():
            return None
        try:
            return _round(json.loads(self._path.read_bytes()))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise RunError(
                f"Expected the record of a round in {self._path}, got something else. Delete the file: the round "
                "begins again with the updates that are there, and no bank is charged twice."
            ) from error

    def keep(self, update: Update, content: bytes) -> None:
        """Store the envelope ``content`` of ``update``; it is on disk when this returns."""
        path = self._file(update.round, update.bank)
        with writing(path):
            write_atomic(path, content, mode=0o600, sync=self._sync)

    def kept(self, round_number: int) -> Iterator[Kept]:
        """The stored updates of a round, by name."""
        prefix = f"{round_number:05d}-"
        for path in sorted(self._updates.glob(f"{prefix}*{_SUFFIX}")):
            bank = unquote(path.name.removeprefix(prefix).removesuffix(_SUFFIX))
            yield Kept(bank, path, path.stat().st_mtime)

    def read(self, round_number: int, bank: str) -> bytes:
        """The stored update; ``RunError`` if it is gone."""
        try:
            return self._file(round_number, bank).read_bytes()
        except OSError as error:
            raise RunError(
                f"Expected the update of {bank} to round {round_number} in {self._updates}, got: {error.strerror}. "
                "Restore it from a backup."
            ) from error

    def released(self, round_number: int, bank: str) -> Released | None:
        """The tensors of an update that is in memory: here none is, so that one at a time can be read."""
        return None

    def discard(self, round_number: int, bank: str) -> None:
        """Remove an update that does not count after all."""
        self._file(round_number, bank).unlink(missing_ok=True)

    def forget_before(self, round_number: int) -> None:
        """Remove the updates of all rounds before ``round_number``, and what crashes left of unfinished writes."""
        if not self._updates.is_dir():
            return
        for path in self._updates.iterdir():
            number = path.name.partition("-")[0]
            if path.name.startswith(".") or (number.isdecimal() and int(number) < round_number):
                path.unlink(missing_ok=True)

    def _file(self, round_number: int, bank: str) -> Path:
        return self._updates / f"{round_number:05d}-{quote(bank, safe='')}{_SUFFIX}"


class VolatileRoundStore(RoundStore):
    """As ``RoundStore``, in memory: for simulations, whose banks keep their updates in the same place anyway.

    A simulation that is continued asks the banks again, and they send again what they kept.
    """

    def __init__(self) -> None:
        self._record: Round | None = None
        self._updates_in: dict[tuple[int, str], Released] = {}

    def save(self, record: Round) -> None:
        """Keep the record."""
        self._record = record

    def load(self) -> Round | None:
        """The record."""
        return self._record

    def keep(self, update: Update, content: bytes) -> None:
        """Keep the update's tensors."""
        self._updates_in[update.round, update.bank] = update.tensors

    def kept(self, round_number: int) -> Iterator[Kept]:
        """None: a campaign recovers what another process left."""
        return iter(())

    def released(self, round_number: int, bank: str) -> Released | None:
        """The tensors of the update."""
        return self._updates_in.get((round_number, bank))

    def discard(self, round_number: int, bank: str) -> None:
        """Forget the update."""
        self._updates_in.pop((round_number, bank), None)

    def forget_before(self, round_number: int) -> None:
        """Forget the updates of all rounds before, and of this one: nobody can read them."""
        self._updates_in = {at: value for at, value in self._updates_in.items() if at[0] > round_number}


def _round(fields: dict[str, Any]) -> Round:
    fields["phase"] = Phase(fields["phase"])
    fields["accepted"] = {bank: Accepted(**value) for bank, value in fields["accepted"].items()}
    fields["left_out"] = {bank: LeftOut(**value) for bank, value in fields.get("left_out", {}).items()}
    fields["refusing"] = tuple(fields["refusing"])
    fields["refused"] = tuple(Refused(**value) for value in fields["refused"])
    fields["aborted"] = tuple(Aborted(**value) for value in fields["aborted"])
    record = Round(**fields)
    if type(record.number) is not int or type(record.attempt) is not int or type(record.series) is not int:
        raise TypeError("numbers")
    return record
