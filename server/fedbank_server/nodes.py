"""Which bank answers at which of Flower's nodes, by the banks' own signatures; nodes come, go and come back.

Every node is asked who it is, again and again. A bank's answer names the start of its app: after another start, what
was asked before is lost and has to be asked again. A start that answers again after a later one was heard is a second
process under the same name; its answer counts as that only if it is to a question that was asked since.
"""

import secrets
from dataclasses import dataclass, field

from flwr.serverapp import Grid

from fedbank.adapter.heads import NO_LINES, CallNote, LedgerHead
from fedbank.adapter.update import COORDINATOR, NONCE_BYTES, PRESENCE, QUESTION, Presence
from fedbank.aggregation.admit import FindKey, Refused
from fedbank.aggregation.terms import CampaignTerms
from fedbank.errors import UpdateError
from fedbank.sealing.envelope import open_sealed, seal
from fedbank.sealing.keys import PublicKey, SigningKey
from fedbank.sealing.refusals import RefusedError
from fedbank_server.heads import Heads
from fedbank_server.post import ENROL, Asked, Post

_MAX_BYTES = 4096
_PATIENCE = 4
"""Questions that could have been asked until an unanswered one counts as lost, with a bank that has just crashed."""


@dataclass(frozen=True, slots=True)
class CoordinatorKeys:
    """The coordinator's own key, and where it looks for a bank's: ``None`` for whoever is no active member.

    ``find_key`` is asked every time, so that a bank that is revoked is out at once.
    """

    own: SigningKey
    find_key: FindKey


@dataclass(frozen=True, slots=True)
class Timing:
    """How often the coordinator looks, and how long it waits. Seconds.

    ``enrol_timeout_s``: for banks that never appear, in a campaign without a deadline. ``message_timeout_s``: for an
    update, after that the bank is asked anew. ``restart_grace_s``: what is left of a deadline at least after a restart,
    or after a look at the grid that took ``away_s``: the SuperLink was away for so long, to the banks too.
    """

    poll_interval_s: float = 0.05
    nodes_every_s: float = 1.0
    enrol_every_s: float = 15.0
    enrol_timeout_s: float = 120.0
    message_timeout_s: float = 6 * 3600.0
    retry_pause_s: float = 5.0
    restart_grace_s: float = 60.0
    away_s: float = 15.0


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a bank is: a node, and which start of its app answers there; ``mask`` is ``Presence.mask``.

    ``head`` is that of its ledger, ``twin`` whether a second process answers as it.
    """

    node: int
    instance: str
    mask: str
    head: LedgerHead = NO_LINES
    twin: bool = False


@dataclass(slots=True)
class _Starts:
    """The starts of one bank's app in the order in which they were heard first; ``since`` counts questions."""

    order: list[str] = field(default_factory=list)
    since: int = 0


class Nodes:
    """Asks nodes who they are and remembers; what it is told of the banks' ledgers it keeps in ``heads``."""

    def __init__(
        self,
        grid: Grid,
        post: Post,
        terms: CampaignTerms,
        keys: CoordinatorKeys,
        timing: Timing,
        heads: Heads,
    ) -> None:
        self._grid, self._post = grid, post
        self._terms, self._keys, self._timing = terms, keys, timing
        self._heads = heads
        self._starts: dict[str, _Starts] = {}
        self._conflicts: dict[str, str] = {}
        self._num_asked = 0
        self._seats: dict[str, Seat] = {}
        self._present: set[int] = set()
        self._next_look = -1.0
        self._next_question: dict[int, float] = {}

    def refresh(self, now: float) -> bool:
        """See who is there and ask who is due; ``False`` if it is not time yet."""
        if now < self._next_look:
            return False
        self._next_look = now + self._timing.nodes_every_s
        self._present = set(self._grid.get_node_ids())
        for node in sorted(self._present):
            due = self._next_question.get(node, 0.0) <= now
            if due and not self._post.is_open(ENROL, node):
                self._next_question[node] = now + self._timing.enrol_every_s
                self._ask(node, now)
        for node in self._next_question.keys() - self._present:
            del self._next_question[node]
        return True

    def seat(self, bank: str) -> Seat | None:
        """Where ``bank`` is, ``None`` if it is not there."""
        seat = self._seats.get(bank)
        return seat if seat is not None and seat.node in self._present else None

    def lost(self, bank: str) -> None:
        """A message to ``bank`` did not reach it: ask its node again who is there before anything else."""
        seat = self._seats.pop(bank, None)
        if seat is not None:
            self._next_question[seat.node] = self._next_look = 0.0

    def answered(self, asked: Asked, content: bytes) -> str | Refused:
        """The bank that ``content`` proves to be at the node that was asked, or why it proves nothing."""
        try:
            opened = open_sealed(content, PRESENCE, self._find_member, self._terms.context, _MAX_BYTES)
            presence = Presence.from_bytes(bytes(opened.payload))
        except RefusedError as error:
            return Refused("", error.check, str(error))
        except UpdateError as error:
            return Refused("", "schema", str(error))
        if (presence.bank, presence.nonce) != (opened.signer, asked.nonce):
            return Refused(opened.signer, "replay", "Expected an answer to this very question. It was not used.")
        self._take_seat(asked, presence)
        return presence.bank

    def note_for(self, bank: str, seat: Seat) -> CallNote:
        """What a call says to ``bank`` alone, who sits at ``seat``."""
        return CallNote(self._terms.plans[bank], self._heads.hand_back(bank, seat.head), seat.twin)

    def charged(self, bank: str, head: LedgerHead) -> None:
        """An update of ``bank`` counts, which came with this ``head`` of its ledger."""
        self._heads.report(bank, head)

    def doubt(self, bank: str) -> Refused | None:
        """What is wrong with the bank that has just answered, for the evidence; the bank itself decides on it."""
        seat = self._seats.get(bank)
        if seat is not None and seat.twin:
            return Refused(bank, "twin", f"Expected one process of {bank}, heard two in turn under its name.")
        problem = self._conflicts.pop(bank, "")
        return Refused(bank, "ledger", f"Expected {bank} to go on with its ledger, got {problem}.") if problem else None

    def _take_seat(self, asked: Asked, presence: Presence) -> None:
        """The newest start of the bank's app has its seat. An earlier one may have answered late, or may live still."""
        bank, instance = presence.bank, presence.instance
        starts = self._starts.setdefault(bank, _Starts())
        if instance not in starts.order:
            starts.order.append(instance)
            starts.since = self._num_asked
        elif instance != starts.order[-1]:
            if asked.number <= starts.since:
                return  # it was asked before the newer one was heard
            self._heads.add_twins(bank, instance, starts.order[-1])
            starts.order.remove(instance)
            starts.order.append(instance)
            starts.since = self._num_asked
        if problem := self._heads.conflict(bank, presence.head):
            self._conflicts[bank] = problem
        self._heads.report(bank, presence.head)
        twin = instance in self._heads.seen(bank).twins
        self._seats[bank] = Seat(asked.node, instance, presence.mask, presence.head, twin)

    def _find_member(self, bank: str) -> PublicKey | None:
        return self._keys.find_key(bank) if bank in self._terms.weights else None

    def _ask(self, node: int, now: float) -> None:
        nonce, lifetime_s = secrets.token_bytes(NONCE_BYTES), _PATIENCE * self._timing.enrol_every_s
        question = seal(QUESTION, COORDINATOR, self._terms.context, nonce, self._keys.own)
        self._num_asked += 1
        asked = Asked(ENROL, node, now + lifetime_s, nonce=nonce.hex(), number=self._num_asked)
        self._post.send(asked, question, lifetime_s)
