"""What the coordinator keeps as evidence of a campaign, and tells the operator while it runs."""

from collections.abc import Callable

from fedbank.aggregation.admit import Refused
from fedbank.aggregation.rounds import Round
from fedbank.evidence.log import EvidenceLog
from fedbank_server.observer import CommittedRound, Observer


class EvidenceObserver(Observer):
    """Every commit, refusal and aborted attempt is an entry; what a round did is also a line for ``say``."""

    def __init__(self, log: EvidenceLog, campaign: str, say: Callable[[str], None]) -> None:
        self._log, self._campaign, self._say = log, campaign, say

    def refused(self, round_number: int, refused: Refused) -> None:
        """Something was not used."""
        self._log.append(
            "update-refused", self._campaign, f"round {round_number}, {refused.bank}: {refused.reason}", "coordinator"
        )
        self._say(f"Round {round_number}: not used, from {refused.bank or 'somebody'}: {refused.reason}")

    def round_committed(self, committed: CommittedRound) -> None:
        """A round is on disk."""
        line = committed.line
        self._log.append(
            "round-committed",
            line.adapter,
            f"{self._campaign} round {line.round}: {', '.join(line.accepted)}",
            "coordinator",
        )
        absent = f", without {', '.join(line.missing)}" if line.missing else ""
        self._say(
            f"Round {line.round}: {len(line.accepted)} updates{absent}, {committed.seconds:.1f} s, change "
            f"{committed.change_norm:.4g}."
        )

    def round_aborted(self, record: Round) -> None:
        """An attempt ended below the quorum."""
        missing = "; ".join(f"{bank}: {why}" for bank, why in sorted(record.aborted[-1].missing.items()))
        self._log.append("round-aborted", self._campaign, f"round {record.number}: {missing}", "coordinator")
        self._say(f"Round {record.number}: below the quorum, the adapter is unchanged. Missing: {missing}.")
