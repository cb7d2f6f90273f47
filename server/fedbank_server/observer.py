"""Whoever watches a campaign: a simulation's recorder, an evidence log, a display."""

from dataclasses import dataclass

from fedbank.aggregation.admit import Refused
from fedbank.aggregation.influence import LeftOut
from fedbank.aggregation.rounds import GlobalState, Round
from fedbank_server.history import CommittedLine
from fedbank_server.snapshot import CampaignStatus


@dataclass(frozen=True, slots=True)
class CommittedRound:
    """One committed round: ``change_norm`` is the L2 norm of the average change, bytes are payload bytes.

    ``line`` is what the campaign's history says of it.
    """

    state: GlobalState
    change_norm: float
    seconds: float
    bytes_up: int
    bytes_down: int
    line: CommittedLine

    def costs(self) -> dict[str, float]:
        """What the round cost, as it is stored with the state."""
        return costs(self.change_norm, self.seconds, self.bytes_up, self.bytes_down)


def costs(change_norm: float, seconds: float, bytes_up: int, bytes_down: int) -> dict[str, float]:
    """What a round cost, by name."""
    return {
        "seconds": round(seconds, 4),
        "bytes_up": bytes_up,
        "bytes_down": bytes_down,
        "update_norm": change_norm,
    }


class Observer:
    """Does nothing; whoever watches overrides what it needs. Called in the coordinator's thread: what it raises ends
    the campaign.
    """

    def update_admitted(self, round_number: int, bank: str) -> None:
        """A bank's update was admitted to the round and is on disk."""

    def refused(self, round_number: int, refused: Refused) -> None:
        """Something was not used: an update, a bank's refusal (check ``refusal``), an answer to who is there."""

    def excluded(self, refused: Refused) -> None:
        """A bank does not take part: the acceptance that it signed says something else than it has to."""

    def left_out(self, round_number: int, bank: str, found: LeftOut) -> None:
        """An admitted update does not count. Told before that is on disk: after a crash in between, once more."""

    def round_committed(self, committed: CommittedRound) -> None:
        """A round was committed and is already on disk."""

    def committed_before(self, line: CommittedLine) -> None:
        """The last round that was committed before this start: a crash may have come before anybody was told of it."""

    def round_aborted(self, record: Round) -> None:
        """An attempt ended below the quorum; ``record.aborted`` ends with it. Nothing was changed."""

    def status_changed(self, status: CampaignStatus) -> None:
        """The campaign's status changed; only with a status file."""
