"""Which bank answers at which of Flower's nodes, by the banks' own signatures; nodes come, go and come back.

Every node is asked who it is, again and again. A bank's answer names the start of its app: after another start, what
was asked before is lost and has to be asked again.
"""

import secrets
from dataclasses import dataclass

from flwr.serverapp import Grid

from fedbank.adapter.update import COORDINATOR, NONCE_BYTES, PRESENCE, QUESTION, Presence
from fedbank.aggregation.admit import FindKey, Refused
from fedbank.aggregation.terms import CampaignTerms
from fedbank.errors import UpdateError
from fedbank.sealing.envelope import open_sealed, seal
from fedbank.sealing.keys import PublicKey, SigningKey
from fedbank.sealing.refusals import RefusedError
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
    """Where a bank is: a node, and which start of its app answers there; ``mask`` is ``Presence.mask``."""

    node: int
    instance: str
    mask: str


class Nodes:
    """Asks nodes who they are and remembers."""

    def __init__(self, grid: Grid, post: Post, terms: CampaignTerms, keys: CoordinatorKeys, timing: Timing) -> None:
        self._grid, self._post = grid, post
        self._terms, self._keys, self._timing = terms, keys, timing
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
        self._seats[presence.bank] = Seat(asked.node, presence.instance, presence.mask)
        return presence.bank

    def _find_member(self, bank: str) -> PublicKey | None:
        return self._keys.find_key(bank) if bank in self._terms.weights else None

    def _ask(self, node: int, now: float) -> None:
        nonce, lifetime_s = secrets.token_bytes(NONCE_BYTES), _PATIENCE * self._timing.enrol_every_s
        question = seal(QUESTION, COORDINATOR, self._terms.context, nonce, self._keys.own)
        self._post.send(Asked(ENROL, node, now + lifetime_s, nonce=nonce.hex()), question, lifetime_s)
