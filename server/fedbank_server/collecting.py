"""One round's updates: asks the banks that are there, lets in what belongs to the round, stores it, decides.

An update is stored before it counts. A bank whose update is stored is not asked again, whatever crashes.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from flwr.app import Message
from flwr.serverapp import Grid

from fedbank.adapter.heads import CallNote
from fedbank.adapter.update import COORDINATOR, LATER_CODE, PAYLOAD, RECORD, REFUSED_CODE, REQUEST, RoundCall
from fedbank.aggregation.admit import Admitted, Expected, Refused, admit
from fedbank.aggregation.deadline import time_allowed
from fedbank.aggregation.influence import LeftOut
from fedbank.aggregation.rounds import Accepted, Decision, GlobalState, Round
from fedbank.aggregation.terms import CampaignTerms
from fedbank.errors import RunError
from fedbank.sealing.envelope import seal
from fedbank_server.board import Board
from fedbank_server.heads import Heads
from fedbank_server.memory import forget
from fedbank_server.nodes import CoordinatorKeys, Nodes, Timing
from fedbank_server.observer import Observer
from fedbank_server.pauses import Pauses
from fedbank_server.post import ENROL, TRAIN, Asked, Post
from fedbank_server.postponed import Postponed
from fedbank_server.round_store import RoundStore
from fedbank_server.snapshot import BankState
from fedbank_server.speakers import Speakers, reason_of

_NOT_DELIVERED = (3, 4, 5)
"""Flower's MESSAGE_UNAVAILABLE, REPLY_MESSAGE_UNAVAILABLE and NODE_UNAVAILABLE: the bank has not answered."""


class Collector:
    """Collects rounds on one grid. It keeps what it knows of nodes, and listens for late updates of earlier rounds."""

    def __init__(
        self,
        grid: Grid,
        terms: CampaignTerms,
        rounds: RoundStore,
        keys: CoordinatorKeys,
        observer: Observer,
        board: Board,
        timing: Timing,
        *,
        stop: Callable[[], bool],
        clock: Callable[[], float],
        heads: Heads,
    ) -> None:
        self._terms, self._rounds, self._keys = terms, rounds, keys
        self._observer, self._board, self._timing = observer, board, timing
        self._stop, self._clock = stop, clock
        self._post = Post(grid)
        self._nodes = Nodes(grid, self._post, terms, keys, timing, heads)
        self._speakers = Speakers(grid)
        self._asked: dict[str, Asked] = {}
        self._postponed = Postponed()
        self._pauses = Pauses()
        self._called: dict[str, tuple[str, CallNote]] = {}
        self._sealed_call, self._call_bytes = b"", 0
        self.bytes_down = 0
        """Payload bytes of the calls that were sent so far."""

    def collect(self, record: Round, state: GlobalState) -> Round | None:
        """The round ready to be aggregated, or aborted, as it is on disk; ``None`` if a stop was asked for."""
        record, began = self._recover(record, state), self._clock()
        while not self._stop():
            record, looked_at = self._without_revoked(record), self._clock()
            looked = self._nodes.refresh(self._clock())
            if self._clock() - began > self._timing.nodes_every_s or self._all_there(record):
                self._ask(record, state)
            answers, active = 0, self._active()
            needed = self._terms.needed(len(active))
            for asked, message in self._post.receive(self._clock()):
                record, answers = self._take(asked, message, record, state), answers + 1
                self._board.publish(record, state, needed)  # each by itself: no state of a bank goes unseen
                forget(self._call_bytes)  # an update is about as large
            now, active = self._clock(), self._active()
            needed = self._terms.needed(len(active))
            if looked or answers:
                self._show_absent(record, active)
                self._board.publish(record, state, needed)
            record = self._lenient(self._measured(record, needed), now, now - looked_at)
            record = self._patient(record, now, needed, active)
            too_long = record.too_long(self._terms)
            decision = record.decide(now, needed, active, too_long)
            if decision is not Decision.WAIT:
                return self._decided(record, decision, now, too_long)
            self._give_up_without_deadline(record, now - began)
            if not answers:
                time.sleep(self._timing.poll_interval_s)
        return None

    def forget_round(self) -> None:
        """The round is over: what is still out of it comes late."""
        self._asked.clear()
        self._pauses = Pauses()
        self._called, self._sealed_call = {}, b""
        forget(self._call_bytes)

    def _all_there(self, record: Round) -> bool:
        """Whether nobody is waited for before banks are asked: one call reaches them all then."""
        return all(self._nodes.seat(bank) for bank in self._active() - record.accepted.keys())

    def _decided(self, record: Round, decision: Decision, now: float, too_long: Mapping[str, LeftOut]) -> Round:
        for bank, found in too_long.items():
            self._board.bank(bank, BankState.LEFT_OUT, str(found))
            self._board.error(f"{bank}: {found}")
            self._observer.left_out(record.number, bank, found)
        if decision is Decision.AGGREGATE:
            record = record.aggregate(too_long)
        else:
            absent = self._terms.weights.keys() - (record.accepted.keys() - too_long.keys())
            record = record.abort(now, {bank: self._why_missing(bank) for bank in sorted(absent)})
        self._rounds.save(record)
        return record

    def _why_missing(self, bank: str) -> str:
        status = self._board.state(bank)
        return f"{status.state.value} since {status.since}" + (f": {status.reason}" if status.reason else "")

    def _active(self) -> set[str]:
        return {bank for bank in self._terms.weights if self._keys.find_key(bank) is not None}

    def _recover(self, record: Round, state: GlobalState) -> Round:
        """Count what is stored: every update is admitted again, so that nothing depends on what a crash left."""
        record = replace(record, accepted={})
        for kept in list(self._rounds.kept(record.number)):
            found = self._admit(kept.path.read_bytes(), record, state)
            if isinstance(found, Admitted) and found.update.bank == kept.bank:
                record = self._count(record, found, kept.stored)
            else:
                self._rounds.discard(record.number, kept.bank)
        return record

    def _without_revoked(self, record: Round) -> Round:
        revoked = self._terms.weights.keys() - self._active()
        for bank in revoked:
            self._board.bank(bank, BankState.REVOKED)
        gone = revoked & record.accepted.keys()
        for bank in gone:
            self._rounds.discard(record.number, bank)
        return record.without(gone) if gone else record

    def _ask(self, record: Round, state: GlobalState) -> None:
        """Send the call to every bank that is there and has not been asked since its app was started."""
        for bank in sorted(self._active() - record.accepted.keys() - set(record.refusing)):
            seat, before, now = self._nodes.seat(bank), self._asked.get(bank), self._clock()
            if seat is None or self._postponed.is_waiting(bank, seat.instance, now) or self._pauses.lasts(bank, now):
                continue
            if before and (before.node, before.instance) == (seat.node, seat.instance) and now < before.expires:
                continue
            if before and before.round == record.number:  # it was started again, or says so: its call is lost
                self._pauses.lost(bank, now)
            lifetime_s = self._timing.message_timeout_s
            asked = Asked(TRAIN, seat.node, now + lifetime_s, bank, record.number, seat.instance)
            self._post.send(asked, self._call(record, state, bank), lifetime_s)
            self.bytes_down += self._call_bytes
            self._asked[bank] = asked
            self._postponed.asked(bank)
            self._board.bank(bank, BankState.ASKED)

    def _call(self, record: Round, state: GlobalState, bank: str) -> bytes:
        """The round's signed call, one for all banks that are there; another one when ``bank`` is told something else.

        Others that were called before and have charged since then are not a reason.
        """
        terms, called = self._terms, {}
        for name in terms.weights:
            if (seat := self._nodes.seat(name)) is not None:
                called[name] = seat.mask, self._nodes.note_for(name, seat)
        if called[bank] != self._called.get(bank):
            masks = {name: mask for name, (mask, _) in called.items()}
            notes = {name: note for name, (_, note) in called.items()}
            told = RoundCall.to_all(terms.campaign, record.number, notes, masks, state.adapter, state.previous)
            call = told.to_bytes()
            self._called, self._call_bytes = called, len(call)
            self._sealed_call = seal(REQUEST, COORDINATOR, terms.context, call, self._keys.own)
        return self._sealed_call

    def _take(self, asked: Asked, message: Message, record: Round, state: GlobalState) -> Round:
        """What becomes of the round with one reply. Nothing that a reply holds can raise here."""
        if asked.kind == ENROL:
            return self._enrol(asked, message, record)
        if self._asked.get(asked.bank) is asked:
            del self._asked[asked.bank]
        if message.has_error() and message.error.code in _NOT_DELIVERED:
            self._nodes.lost(asked.bank)
            self._pauses.lost(asked.bank, self._clock())
            return record
        if message.has_error() and message.error.code == LATER_CODE and asked.round == record.number:
            problem = self._postponed.note(asked, record.attempt, str(message.error.reason), self._clock())
            return record if problem is None else self._refuse(problem, asked, record)
        content = _content(message)
        found = content if isinstance(content, Refused) else self._admit(content, record, state)
        if isinstance(found, Refused):
            return self._refuse(found, asked, record)
        self._rounds.keep(found.update, content if isinstance(content, bytes) else b"")
        record = self._count(record, found, self._clock())
        if found.update.bank != asked.bank:
            self._nodes.lost(asked.bank)
        return record

    def _admit(self, content: bytes, record: Round, state: GlobalState) -> Admitted | Refused:
        expected = Expected(record.number, record.base_digest, state.round, record.accepted)
        return admit(content, self._terms, expected, self._keys.find_key)

    def _count(self, record: Round, found: Admitted, arrived: float) -> Round:
        bank = found.update.bank
        seconds = round(max(0.0, arrived - record.began), 3)
        told = found.update.disclosed
        epsilons = (None, None) if told is None else (told.campaign, told.total)
        norm = float(f"{found.norm:.9g}")  # the last digits depend on how memory happens to be aligned
        accepted = Accepted(found.digest, found.key, found.num_bytes, seconds, *epsilons)
        record = record.accept(bank, replace(accepted, norm=norm))
        self._nodes.charged(bank, found.update.head)
        self._board.bank(bank, BankState.SENT)
        self._observer.update_admitted(record.number, bank)
        return record

    def _enrol(self, asked: Asked, message: Message, record: Round) -> Round:
        if message.has_error() and message.error.code in _NOT_DELIVERED:
            return record
        content = _content(message)
        found = content if isinstance(content, Refused) else self._nodes.answered(asked, content)
        if isinstance(found, Refused):
            known = Refused(found.bank or self._speakers.bank(asked.node), found.check, found.reason)
            self._observer.refused(record.number, known)
            self._board.error(f"{self._speakers.describe(asked.node)}: {found.reason}")
            return record
        if self._board.state(found).state is BankState.OFFLINE:
            self._board.bank(found, BankState.IDLE)
        if (doubt := self._nodes.doubt(found)) is not None:
            self._observer.refused(record.number, doubt)
            self._board.error(doubt.reason)
        return record

    def _refuse(self, found: Refused, asked: Asked, record: Round) -> Round:
        """Note it in the name of the bank that was asked; only what answers this round's request rules it out."""
        refused = Refused(asked.bank, found.check, found.reason)
        is_late = asked.round < record.number
        final = not is_late and asked.bank not in record.accepted
        record = record.refuse(refused, final=final)
        if is_late:
            self._board.bank(asked.bank, BankState.LATE, found.reason)
        elif final:
            self._board.bank(asked.bank, BankState.REFUSED, found.reason)
        self._board.error(f"{asked.bank}: {found.reason}")
        self._rounds.save(record)
        self._observer.refused(record.number, refused)
        return record

    def _show_absent(self, record: Round, active: set[str]) -> None:
        for bank in active - record.accepted.keys() - set(record.refusing):
            seat = self._nodes.seat(bank)
            if seat is None:
                self._board.bank(bank, BankState.OFFLINE)
            elif self._postponed.is_waiting(bank, seat.instance, self._clock()):
                self._board.bank(bank, BankState.WAITING, self._postponed.reason(bank))
            elif bank in self._asked and self._board.state(bank).state is not BankState.LATE:
                self._board.bank(bank, BankState.ASKED)

    def _measured(self, record: Round, needed: int) -> Round:
        """A round that began without measured times has them once a quorum has sent: one bank that is gone in the first
        round holds up nobody for a day.
        """
        rule = self._terms.deadline
        if rule is None or record.time_allowed_s != rule.ceiling_s or len(record.accepted) < needed:
            return record
        seconds = {bank: (found.seconds,) for bank, found in record.accepted.items()}
        hurried = record.hurried(time_allowed(rule, seconds, needed, record.retries))
        if hurried != record:
            self._rounds.save(hurried)
        return hurried

    def _patient(self, record: Round, now: float, needed: int, active: set[str]) -> Round:
        """A round that cannot have its quorum before some bank's hour of training waits for that hour."""
        able = active - set(record.refusing)
        hours = self._postponed.hours(able - record.accepted.keys(), now)
        missing = needed - (len(able) - len(hours))
        if record.time_allowed_s is None or not 0 < missing <= len(hours):
            return record
        extended = record.extended(hours[missing - 1] + record.time_allowed_s)
        if extended != record:
            self._rounds.save(extended)
        return extended

    def _lenient(self, record: Round, now: float, look_s: float) -> Round:
        """A deadline that passed while the SuperLink was away says nothing of the banks: they get time to come back."""
        resumed = record.resumed(now, self._timing.restart_grace_s) if look_s > self._timing.away_s else record
        if resumed != record:
            self._rounds.save(resumed)
        return resumed

    def _give_up_without_deadline(self, record: Round, waited_s: float) -> None:
        """Where no deadline ends a round, banks that never appear do."""
        if self._terms.deadline is not None or waited_s < self._timing.enrol_timeout_s or self._stop():
            return
        absent = sorted(bank for bank in self._active() - record.accepted.keys() if bank not in self._asked)
        if absent:
            raise RunError(
                f"Expected the banks {sorted(self._terms.weights)} to enrol, got none of {absent}. "
                "Check that every bank's client runs for this campaign."
            )


def _content(message: Message) -> bytes | Refused:
    """The bytes of a reply, or the refusal that it is; whatever else it holds is not looked at."""
    if message.has_error():
        reason = reason_of(message.error)
        check = "refusal" if message.error.code == REFUSED_CODE else "error"
        return Refused("", check, reason if check == "refusal" else f"Expected an answer, got an error: {reason}")
    records = message.content.config_records
    # Taken out: Flower's records refer to themselves, and would hold the bytes until Python looks for such circles.
    payload = records[RECORD].pop(PAYLOAD, None) if RECORD in records else None
    if not isinstance(payload, bytes):
        return Refused("", "format", f"Expected bytes, got {type(payload).__name__}. Nothing was used.")
    return payload
