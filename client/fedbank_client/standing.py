"""Whether a bank may still train: it stops for good when its ledger, or its identity, is not its alone.

A copy of a bank's folder has the same keys and the same budget. Neither copy can see the other, but the coordinator
hears both: it hands back the head of the ledger that it last saw under this name. A head that is no line of this
folder's ledger was made by another copy, or this folder is an older one of itself. Either way this ledger does not say
what was spent, and nothing is trained until a person has put that right (client/README.md, "When a bank has stopped").
"""

import json
from datetime import UTC, datetime
from pathlib import Path

from fedbank.adapter.heads import NO_LINES, LedgerHead
from fedbank.durable import write_atomic
from fedbank.errors import PrivacyError
from fedbank.privacy.ledger import Ledger

_MARK = "stopped.json"
_ACT = "Nothing was trained. What to do: client/README.md, 'When a bank has stopped'."


class StoppedError(PrivacyError):
    """The bank has stopped, now or earlier, until a person acts."""


class Standing:
    """Looks after ``ledger``, which lies in ``folder`` beside the mark of a bank that has stopped."""

    def __init__(self, folder: Path, ledger: Ledger, bank: str, *, sync: bool = True) -> None:
        self._folder, self._ledger, self._bank, self._sync = folder, ledger, bank, sync

    def head(self) -> LedgerHead:
        """What the coordinator is told of the ledger; of one that is damaged, nothing: the call is refused then."""
        try:
            lines, line_hash = self._ledger.head()
        except PrivacyError:
            return NO_LINES
        return LedgerHead(lines, line_hash) if lines else NO_LINES

    def check(self, handed_back: LedgerHead, *, twin: bool) -> None:
        """Go on only if the ledger that the coordinator last saw is this one, and no other process is this bank.

        Raises:
            StoppedError: it is not, or was not at some earlier time.
            PrivacyError: the ledger is damaged.
        """
        check_standing(self._folder)
        if twin:
            self._stop(
                f"Expected to be the only process of {self._bank}, got another one that answers under its name: its "
                "folder runs twice."
            )
        if not self._ledger.holds(handed_back.lines, handed_back.hash):
            self._stop(
                f"Expected the ledger of {self._bank} to hold line {handed_back.lines} ({handed_back.hash[:12]}), "
                "which the coordinator has seen, got no such line: a copy of the folder has spent too, or this is an "
                "older one."
            )

    def _stop(self, reason: str) -> None:
        mark = {"since": datetime.now(UTC).isoformat(timespec="seconds"), "reason": reason}
        write_atomic(self._folder / _MARK, json.dumps(mark).encode() + b"\n", mode=0o600, sync=self._sync)
        raise StoppedError(f"{reason} {_ACT}")


def check_standing(folder: Path) -> None:
    """``StoppedError`` if the bank whose training lies in ``folder`` has stopped and nobody has removed the mark."""
    if reason := why_stopped(folder):
        raise StoppedError(reason)


def why_stopped(folder: Path) -> str:
    """Why the bank whose training lies in ``folder`` has stopped and since when, for people; empty if it has not."""
    path = folder / _MARK
    if not path.exists():
        return ""
    try:
        mark = json.loads(path.read_bytes())
        reason = f"{mark['reason']} (Noticed {mark['since']}.)"
    except (OSError, ValueError, KeyError, TypeError):
        reason = f"Expected a bank that may train, got the mark {path} that it has stopped, which cannot be read."
    return f"{reason} {_ACT}"
