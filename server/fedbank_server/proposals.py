"""Before the first round: propose the campaign to every bank that is there, and keep who accepted.

An answer counts for the bank whose signature it carries, whatever node sent it. What was accepted is on disk, so that
the same campaign continues with the same banks after a restart; banks are asked again then, since one of them may have
been started anew in the meantime.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from flwr.serverapp import Grid

from fedbank.adapter.update import COORDINATOR
from fedbank.errors import RunError, UpdateError
from fedbank.foreign import printable
from fedbank.proposal import ACCEPTANCE, MAX_BYTES, PROPOSAL, Acceptance, Proposal, pack
from fedbank.sealing.envelope import open_sealed, seal
from fedbank.sealing.keys import SigningKey
from fedbank.sealing.roster import Roster
from fedbank_server.asking import ask_all

MESSAGE_TYPE = "query.propose"
_MAX_REFUSAL = 250


@dataclass(frozen=True, slots=True)
class Invited:
    """What is proposed, in whose name, to whom: ``signed_roster`` is ``roster`` as the banks get it."""

    proposal: Proposal
    roster: Roster
    signed_roster: bytes
    key: SigningKey

    @property
    def context(self) -> dict[str, str]:
        """What acceptances, and all messages of the campaign, are signed for."""
        return {
            "consortium": self.roster.consortium,
            "campaign": self.proposal.campaign,
            "roster": self.roster.digest(),
        }

    def message(self) -> bytes:
        """The signed proposal, the same for all banks."""
        payload = pack(self.signed_roster, self.proposal)
        return seal(PROPOSAL, COORDINATOR, {"consortium": self.roster.consortium}, payload, self.key)

    def read(self, content: bytes) -> Acceptance:
        """The acceptance in ``content``; ``UpdateError`` unless an active member signed it for this campaign."""
        opened = open_sealed(content, ACCEPTANCE, self.roster.find_key, self.context, MAX_BYTES)
        acceptance = Acceptance.from_bytes(bytes(opened.payload))
        if (acceptance.bank, acceptance.campaign) != (opened.signer, self.proposal.campaign):
            raise UpdateError(
                f"Expected the consent of {opened.signer} to {self.proposal.campaign}, got one of "
                f"{acceptance.bank!r:.80} to {acceptance.campaign!r:.80}. It was not used."
            )
        return acceptance


@dataclass(slots=True)
class Answers:
    """Who accepted, and what others said. A refusal is not signed: it has the name that its node's key has."""

    accepted: dict[str, Acceptance] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)


def gather(grid: Grid, invited: Invited, wanted: set[str], patience_s: float, stop: Callable[[], bool]) -> Answers:
    """Propose to every node that is or comes online, until all ``wanted`` banks accepted or the time is over."""
    answers = Answers()

    def take(content: bytes | None, refusal: str, who: str) -> bool:
        try:
            if content is None:
                raise UpdateError(refusal)
            acceptance = invited.read(content)
            answers.accepted[acceptance.bank] = acceptance
        except UpdateError as error:
            answers.refusals.append(printable(f"{who}: {error}", _MAX_REFUSAL))
        return wanted <= answers.accepted.keys()

    ask_all(grid, MESSAGE_TYPE, invited.message(), take, patience_s, stop)
    return answers


def check_quorum(answers: Mapping[str, Acceptance], refusals: list[str], members: set[str], quorum: int | None) -> None:
    """``RunError`` unless enough banks accepted: ``quorum`` of them, ``None`` for all ``members``."""
    needed = len(members) if quorum is None else quorum
    if len(answers) < needed:
        said = f" Refusals: {'; '.join(sorted(set(refusals)))}." if refusals else ""
        raise RunError(
            f"Expected {needed} banks to accept the campaign, got {sorted(answers)} of {sorted(members)}.{said} See "
            "fedbank client status at the banks that are missing, or lower quorum."
        )
