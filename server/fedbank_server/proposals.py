"""Before the first round: propose the campaign to every bank that is there, and keep who accepted.

An answer counts for the bank whose signature it carries, whatever node sent it. It is checked when it arrives
(``fedbank.consent``): what fails excludes its bank alone. What was accepted is on disk, so that the same campaign
continues with the same banks after a restart.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from flwr.serverapp import Grid

from fedbank.adapter.update import COORDINATOR
from fedbank.aggregation.admit import Refused
from fedbank.consent import Consent, read_acceptance
from fedbank.errors import RunError, UpdateError
from fedbank.foreign import printable
from fedbank.proposal import ACCEPTANCE, MAX_BYTES, PROPOSAL, Proposal, pack
from fedbank.sealing.envelope import open_sealed, seal
from fedbank.sealing.keys import SigningKey
from fedbank.sealing.refusals import RefusedError
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

    def read(self, content: bytes) -> Consent | Refused:
        """The consent in ``content``, checked, or why it does not count: of a bank if an active member signed it."""
        try:
            opened = open_sealed(content, ACCEPTANCE, self.roster.find_key, self.context, MAX_BYTES)
        except RefusedError as error:
            return Refused("", error.check, str(error))
        try:
            return read_acceptance(bytes(opened.payload), opened.signer, self.proposal)
        except UpdateError as error:
            return Refused(opened.signer, "acceptance", str(error))


@dataclass(slots=True)
class Answers:
    """Who accepted, whose signed acceptance says something else than it has to, and what others said.

    A refusal in ``refusals`` is not signed: it has the name that its node's key has.
    """

    accepted: dict[str, Consent] = field(default_factory=dict)
    excluded: dict[str, Refused] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)


def gather(grid: Grid, invited: Invited, wanted: set[str], patience_s: float, stop: Callable[[], bool]) -> Answers:
    """Propose to every node that is or comes online, until all ``wanted`` banks answered or the time is over.

    Which bank is at a node shows in its answer only. Those of other banks are not looked at.
    """
    answers = Answers()

    def take(content: bytes | None, refusal: str, who: str) -> bool:
        found = invited.read(content) if content is not None else Refused("", "refusal", refusal)
        bank = found.acceptance.bank if isinstance(found, Consent) else found.bank
        if isinstance(found, Consent) and bank in wanted:
            answers.accepted[bank] = found
            answers.excluded.pop(bank, None)
        elif isinstance(found, Refused) and bank in wanted - answers.accepted.keys():
            answers.excluded[bank] = found
        elif isinstance(found, Refused) and not bank:
            answers.refusals.append(printable(f"{who}: {found.reason}", _MAX_REFUSAL))
        return wanted <= answers.accepted.keys() | answers.excluded.keys()

    ask_all(grid, MESSAGE_TYPE, invited.message(), take, patience_s, stop)
    return answers


def check_quorum(
    accepted: Collection[str], members: Collection[str], quorum: int, excluded: Mapping[str, str], refusals: list[str]
) -> None:
    """``RunError`` unless ``quorum`` banks accepted; it says who was ``excluded`` and why, and what others said."""
    if len(accepted) < quorum:
        said = f" Refusals: {'; '.join(sorted(set(refusals)))}." if refusals else ""
        said += "".join(f" Excluded: {bank} ({reason})." for bank, reason in sorted(excluded.items()))
        raise RunError(
            f"Expected {quorum} banks to accept the campaign, got {sorted(accepted)} of {sorted(members)}.{said} See "
            "fedbank client status at the banks that are missing, or lower quorum."
        )
