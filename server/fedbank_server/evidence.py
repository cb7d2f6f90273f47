"""What the coordinator keeps as evidence of a campaign, and tells the operator while it runs."""

import time
from collections.abc import Callable

from fedbank.aggregation.admit import Refused
from fedbank.aggregation.influence import LeftOut
from fedbank.aggregation.rounds import Round
from fedbank.evidence.log import EvidenceLog
from fedbank_server.history import CommittedLine
from fedbank_server.observer import CommittedRound, Observer

_QUIET_S = 60.0
_COMMITTED = "round-committed"


class EvidenceObserver(Observer):
    """Every commit, refusal and aborted attempt is an entry; what a round did is also a line for ``say``."""

    def __init__(self, log: EvidenceLog, campaign: str, say: Callable[[str], None]) -> None:
        self._log, self._campaign, self._say = log, campaign, say
        self._told: dict[tuple[str, str], float] = {}

    def refused(self, round_number: int, refused: Refused) -> None:
        """Something was not used; the same of the same bank is told once a minute, so that nobody fills the log."""
        now, about = time.monotonic(), (refused.bank, refused.check)
        if now - self._told.get(about, -_QUIET_S) < _QUIET_S:
            return
        self._told[about] = now
        result = f"round {round_number}, {refused.bank or 'somebody'}: {refused.reason}"
        self._log.append("update-refused", self._campaign, result, "coordinator")
        self._say(f"Not used, {result}")

    def excluded(self, refused: Refused) -> None:
        """A bank's acceptance does not count."""
        self._log.append("acceptance-refused", self._campaign, f"{refused.bank}: {refused.reason}", "coordinator")
        self._say(f"{refused.bank} is excluded: {refused.reason}")

    def left_out(self, round_number: int, bank: str, found: LeftOut) -> None:
        """An update was much longer than the round's others."""
        result = f"round {round_number}, {bank}: {found}"
        self._log.append("update-left-out", self._campaign, result, "coordinator")
        self._say(f"Left out, {result}")

    def round_committed(self, committed: CommittedRound) -> None:
        """A round is on disk."""
        line = committed.line
        self._log_commit(line)
        absent = f", without {', '.join(line.missing)}" if line.missing else ""
        self._say(
            f"Round {line.round}: {len(line.accepted)} updates{absent}, {committed.seconds:.1f} s, change "
            f"{committed.change_norm:.4g}."
        )

    def committed_before(self, line: CommittedLine) -> None:
        """Make up for the entry of a round that a crash, or a full disk, came before."""
        begins = self._of(line)
        if not any(entry.result.startswith(begins) for entry in self._log.entries(_COMMITTED)):
            self._log_commit(line)

    def _log_commit(self, line: CommittedLine) -> None:
        self._log.append(_COMMITTED, line.adapter, f"{self._of(line)} {', '.join(line.accepted)}", "coordinator")

    def _of(self, line: CommittedLine) -> str:
        return f"{self._campaign} round {line.round}:"

    def round_aborted(self, record: Round) -> None:
        """An attempt ended below the quorum."""
        missing = "; ".join(f"{bank}: {why}" for bank, why in sorted(record.aborted[-1].missing.items()))
        self._log.append("round-aborted", self._campaign, f"round {record.number}: {missing}", "coordinator")
        self._say(f"Round {record.number}: below the quorum, the adapter is unchanged. Missing: {missing}.")
