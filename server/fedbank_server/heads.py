"""What the coordinator last saw of each bank's ledger, and which processes answered under one bank's name.

Kept for the whole consortium, over campaigns and restarts: one small file for each bank in ``heads/``, replaced
atomically and part of every backup. Whoever deletes a bank's file makes the coordinator forget: only on that bank's
word, when it has put its ledger right (server/README.md).
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import quote

from fedbank.adapter.heads import NO_LINES, LedgerHead
from fedbank.durable import write_atomic
from fedbank.errors import RunError, UpdateError
from fedbank_server.writing import writing

HEADS = "heads"
"""The folder's name in the coordinator's folder."""
_MAX_TWINS = 16


@dataclass(frozen=True, slots=True)
class Seen:
    """Of one bank: the longest head and the one before it, as texts, and processes that were heard in turn."""

    head: str = NO_LINES.to_text()
    before: str = NO_LINES.to_text()
    twins: tuple[str, ...] = ()


class Heads:
    """The banks' heads in ``folder``; ``None``: in memory, for simulations and tests."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._memory: dict[str, Seen] = {}

    def report(self, bank: str, head: LedgerHead) -> None:
        """Keep ``head``, which ``bank`` has just signed, if it is the longest."""
        seen = self.seen(bank)
        if head.lines > LedgerHead.from_text(seen.head).lines:
            self._save(bank, replace(seen, head=head.to_text(), before=seen.head))

    def hand_back(self, bank: str, head: LedgerHead) -> LedgerHead:
        """What to tell the process of ``bank`` that reported ``head``: the longest head of the bank that is known.

        If that is its own, it is the one before: a bank that only ever got its own head back would not learn of a
        copy.
        """
        seen = self.seen(bank)
        return LedgerHead.from_text(seen.before if seen.head == head.to_text() else seen.head)

    def conflict(self, bank: str, head: LedgerHead) -> str:
        """Why ``head`` cannot be of the ledger that is known; empty if it can, which need not be so."""
        longest = LedgerHead.from_text(self.seen(bank).head)
        if head.lines < longest.lines or (head.lines == longest.lines and head != longest):
            return f"a ledger of {head.lines} lines after one of {longest.lines}: another copy, or an older one"
        return ""

    def add_twins(self, bank: str, *instances: str) -> None:
        """Note that these processes answer in turn under the name of ``bank``."""
        seen = self.seen(bank)
        new = tuple(instance for instance in instances if instance not in seen.twins)
        if new:
            self._save(bank, replace(seen, twins=(*seen.twins, *new)[-_MAX_TWINS:]))

    def seen(self, bank: str) -> Seen:
        """What is known of ``bank``; ``RunError`` if its file is damaged."""
        if self._folder is None:
            return self._memory.get(bank, Seen())
        path = self._path(self._folder, bank)
        if not path.exists():
            return Seen()
        try:
            fields = json.loads(path.read_bytes())
            found = Seen(fields["head"], fields["before"], tuple(map(str, fields["twins"])))
            for text in (found.head, found.before):
                LedgerHead.from_text(text)
            return found
        except (OSError, ValueError, KeyError, TypeError, RecursionError, UpdateError) as error:
            raise RunError(
                f"Expected what was last seen of the ledger of {bank} in {path}, got something else. Restore it from a "
                "backup: without it nobody notices that a copy of the bank's folder spends too."
            ) from error

    def _save(self, bank: str, seen: Seen) -> None:
        if self._folder is None:
            self._memory[bank] = seen
            return
        path = self._path(self._folder, bank)
        with writing(path):
            write_atomic(path, json.dumps(asdict(seen), sort_keys=True).encode() + b"\n", mode=0o600)

    @staticmethod
    def _path(folder: Path, bank: str) -> Path:
        return folder / f"{quote(bank, safe='')}.json"
