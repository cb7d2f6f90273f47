"""Before the first round: propose the campaign to every bank that is there, and keep who accepted.

An answer counts for the bank whose signature it carries, whatever node sent it. What was accepted is on disk, so that
the same campaign continues with the same banks after a restart; banks are asked again then, since one of them may have
been started anew in the meantime.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedbank.adapter.update import COORDINATOR, PAYLOAD, RECORD, REFUSED_CODE
from fedbank.errors import RunError, UpdateError
from fedbank.proposal import ACCEPTANCE, MAX_BYTES, PROPOSAL, Acceptance, Proposal, pack
from fedbank.sealing.envelope import open_sealed, seal
from fedbank.sealing.keys import SigningKey
from fedbank.sealing.roster import Roster

MESSAGE_TYPE = "query.propose"


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
    """Who accepted, and what others said; ``refusals`` are texts without a name, since a refusal is not signed."""

    accepted: dict[str, Acceptance] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)


def gather(
    grid: Grid,
    invited: Invited,
    wanted: set[str],
    patience_s: float,
    *,
    stop: Callable[[], bool],
    on_answer: Callable[[Answers], None] = lambda _: None,
    poll_interval_s: float = 0.1,
) -> Answers:
    """Propose to every node that is or comes online, until all ``wanted`` banks accepted or the time is over."""
    content, answers = invited.message(), Answers()
    asked: set[int] = set()
    waiting: set[str] = set()
    deadline = time.monotonic() + patience_s
    while not stop() and not wanted <= answers.accepted.keys() and time.monotonic() < deadline:
        new = sorted(set(grid.get_node_ids()) - asked)
        record = RecordDict({RECORD: ConfigRecord({PAYLOAD: content})})
        waiting |= set(grid.push_messages([Message(record, node, MESSAGE_TYPE) for node in new]))
        asked |= set(new)
        replies = list(grid.pull_messages(waiting)) if waiting else []
        for reply in replies:
            waiting.discard(reply.metadata.reply_to_message_id)
            _take(reply, invited, answers)
            on_answer(answers)
        if not replies:
            time.sleep(poll_interval_s)
    return answers


def _take(reply: Message, invited: Invited, answers: Answers) -> None:
    if reply.has_error():
        refused = reply.error.code == REFUSED_CODE
        answers.refusals.append(str(reply.error.reason)[:200] if refused else "a node failed to answer")
        return
    try:
        payload = reply.content.config_records[RECORD][PAYLOAD]
        acceptance = invited.read(payload if isinstance(payload, bytes) else b"")
    except (UpdateError, KeyError) as error:
        answers.refusals.append(str(error)[:200])
        return
    answers.accepted[acceptance.bank] = acceptance


def check_quorum(answers: Mapping[str, Acceptance], refusals: list[str], members: set[str], quorum: int | None) -> None:
    """``RunError`` unless enough banks accepted: ``quorum`` of them, ``None`` for all ``members``."""
    needed = len(members) if quorum is None else quorum
    if len(answers) < needed:
        said = f" Refusals: {'; '.join(sorted(set(refusals)))}." if refusals else ""
        raise RunError(
            f"Expected {needed} banks to accept the campaign, got {sorted(answers)} of {sorted(members)}.{said} See "
            "fedbank client status at the banks that are missing, or lower quorum."
        )
