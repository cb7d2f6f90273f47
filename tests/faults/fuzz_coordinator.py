"""The coordinator's side of the fuzz: a real campaign in which most members reply whatever a liar can sign."""

import hashlib
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Context, Message

sys.path.insert(0, str(Path(__file__).parents[1] / "server"))

from fault_grid import FaultGrid
from fuzz_replies import PAYLOAD, RECORD, Liar, content
from grid_consortium import QUICK, CoordinatorFolder
from mutator import Mutator
from numeric_bank import NUM_STEPS, NumericBank, first_state, key_of, numeric_app, numeric_change, numeric_terms

from fedbank.adapter.state import digest
from fedbank.adapter.update import COORDINATOR, REQUEST, Presence, RoundCall, RoundRequest, Update
from fedbank.aggregation.admit import Refused
from fedbank.config import load_campaign
from fedbank.errors import UpdateError
from fedbank.evidence.log import EvidenceLog
from fedbank.evidence.verify import verify_log
from fedbank.membership.request import node_key_line
from fedbank.membership.terms import DeadlineRule
from fedbank.privacy.plan import PrivacyPlan, declared_size
from fedbank.proposal import Acceptance, Proposal
from fedbank.result import Receipt, Result
from fedbank.sealing.envelope import seal
from fedbank.sealing.roster import Member, Roster, sign_roster
from fedbank_client.terms import training_plan
from fedbank_server.delivery import deliver
from fedbank_server.evidence import EvidenceObserver
from fedbank_server.nodes import CoordinatorKeys
from fedbank_server.proposals import Invited, check_quorum, gather

HONEST, LIARS, ROUNDS, ROUND_S = 3, 30, 3, 1.0
TO_TRAIN = ("update", "update", "update", "error", "record")
TO_ENROL = ("presence", "presence", "seat", "error", "record", "update")
"""What a liar replies to a call and to a question."""
Outcomes = Counter[tuple[str, str]]
"""How often a kind of message had an outcome."""


class Told(EvidenceObserver):
    """The deployed observer; it also remembers what became of the reply at hand."""

    outcome = ""

    def refused(self, round_number: int, refused: Refused) -> None:
        self.outcome = f"refused: {refused.check}"
        super().refused(round_number, refused)

    def update_admitted(self, round_number: int, bank: str) -> None:
        self.outcome = "admitted"


class LyingGrid(FaultGrid):
    """Notes, reply by reply, what the coordinator makes of it; ``kinds`` by the id of what is replied to."""

    def __init__(self, apps: dict[int, Any], outcomes: Outcomes, observer: Told) -> None:
        super().__init__(apps)
        self.kinds: dict[str, str] = {}
        self._outcomes, self._observer = outcomes, observer

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        for reply in list(super().pull_messages(message_ids)):
            kind = self.kinds.pop(reply.metadata.reply_to_message_id, "")
            self._observer.outcome = "no effect"
            yield reply
            if kind:
                self._outcomes[kind, self._observer.outcome] += 1


class LyingCampaign:
    """One campaign of ``HONEST`` banks and ``LIARS``, each of which replies with kinds of its own choice."""

    def __init__(self, folder: Path, seed: int, outcomes: Outcomes, round_s: float) -> None:
        rule = DeadlineRule(factor=1.0, floor_s=round_s, ceiling_s=round_s)
        self.terms = numeric_terms(HONEST + LIARS, ROUNDS, quorum=HONEST, deadline=rule, max_attempts=50)
        self.folder, self.said = folder, list[str]()
        self._outcomes, self._seeds = outcomes, itertools.count(seed)
        self._names = list(self.terms.weights)
        self._evidence = EvidenceLog(folder / "evidence.jsonl", "fuzz", key_of(COORDINATOR), sync=False)
        self._observer = Told(self._evidence, self.terms.campaign, self.said.append)

    def run(self) -> None:
        """To its last round; raises whatever leaves the coordinator, or is not as it should be."""
        grid = LyingGrid({}, self._outcomes, self._observer)
        banks = [NumericBank(name, self.terms, self.folder / name) for name in self._names[:HONEST]]
        for number, bank in enumerate(banks, start=1):
            grid.start(number, numeric_app(bank))
        for number, name in enumerate(self._names[HONEST:], start=HONEST + 1):
            grid.start(number, self._app(name, grid))
        timing = replace(QUICK, enrol_every_s=0.03)
        kept = CoordinatorFolder(self.folder / "campaign", self.terms, self._observer)
        state = kept.run(grid, timing)
        lines = kept.store.history.lines()
        assert state.round == ROUNDS and [line.round for line in lines] == [1, 2, 3]
        assert set(self._names[:HONEST]) <= {bank for line in lines for bank in line.accepted}
        self._evidence.close()
        verify_log(self.folder / "evidence.jsonl", key_of(COORDINATOR).public.raw)
        assert kept.status.round == ROUNDS, "the status can be read"
        self._lines_are_plain()

    def _lines_are_plain(self) -> None:
        wrong = [text for text in self.said if not text.isprintable()]
        assert not wrong, f"told to the operator: {wrong[0]!r:.200}"

    def _app(self, name: str, grid: LyingGrid) -> Any:
        liar = Liar(name, self.terms.context, key_of(name).sign, Mutator(next(self._seeds)))
        honest = NumericBank(name, self.terms, self.folder / name)
        seat = numeric_app(honest)

        def app(message: Message, context: Context) -> Message:
            train = message.metadata.message_type == "train"
            kind = liar.mutator.random.choice(TO_TRAIN if train else TO_ENROL)
            if kind == "seat":  # an honest presence, so that it is asked for updates too
                return seat(message, context)
            grid.kinds[message.metadata.message_id] = kind
            if kind == "update":
                return liar.reply(message, kind, self._update(honest, message) if train else self._first_update(name))
            return liar.reply(message, kind, b"{}" if train else self._presence(name, message))

        return app

    def _presence(self, name: str, message: Message) -> bytes:
        nonce = _payload(message)[-16:].hex()
        return Presence(name, "ab" * 8, "cd" * 32, nonce).to_bytes()

    def _first_update(self, name: str) -> bytes:
        return self._update_to(name, 1, digest(first_state(self.terms).adapter))

    def _update(self, bank: NumericBank, message: Message) -> bytes:
        """What an honest bank would answer to this very call."""
        seal = bank.seal()
        call = seal.open(REQUEST, _payload(message))
        try:
            asked = RoundRequest.from_bytes(RoundCall.request_to(bank.name, seal.mask(), call), self.terms.adapter)
        except UpdateError:  # its presence lied about the mask, so the call cannot be read
            return self._first_update(bank.name)
        return self._update_to(bank.name, asked.round, digest(asked.adapter))

    def _update_to(self, name: str, number: int, base: str) -> bytes:
        change = numeric_change(self.terms, name, number, base)
        return Update(self.terms.campaign, number, name, base, self.terms.plans[name], NUM_STEPS, change).to_bytes()


class LyingMembers:
    """Members that answer a proposal, and the adapter at the end, with anything but the truth."""

    def __init__(self, outcomes: Outcomes, seed: int) -> None:
        names = [f"bank-{number}" for number in range(1, HONEST + LIARS + 1)]
        self._outcomes, self._seeds, self._liars = outcomes, itertools.count(seed), names[HONEST:]
        self._config = load_campaign(["training.rounds=2", "training.local_steps=2", "training.expected_batch=8"])
        members = {name: _member(name) for name in names}
        key = key_of(COORDINATOR)
        self._roster = Roster("Test", 1, key.public, members)
        proposal = Proposal.of("Test", "b" * 64, self._config)
        self._invited = Invited(proposal, self._roster, sign_roster(self._roster, key), key)
        self._context, self._names = self._invited.context, names
        self._acceptance = self._real_acceptance()

    def propose(self, kind: str) -> None:
        """One proposal to all; the honest ones' consent must be there."""
        apps = self._apps(kind, "acceptance", self._consent)
        answers = gather(FaultGrid(apps), self._invited, set(self._names), 0.4, lambda: False)
        assert set(self._names[:HONEST]) <= answers.accepted.keys()
        assert all(text.isprintable() and len(text) <= 300 for text in answers.refusals)
        lied = len(answers.accepted) - HONEST
        self._outcomes[f"{kind} to a proposal", "accepted"] += lied
        self._outcomes[f"{kind} to a proposal", "refused"] += len(answers.refusals)
        self._outcomes[f"{kind} to a proposal", "excluded by name"] += len(answers.excluded)
        seen = lied + len(answers.refusals) + len(answers.excluded)
        if seen != len(self._liars):
            raise AssertionError(f"{len(self._liars)} lied, {seen} were seen")
        assert all(found.reason.isprintable() for found in answers.excluded.values())
        reasons = {bank: found.reason for bank, found in answers.excluded.items()}
        check_quorum(answers.accepted, set(self._names), HONEST, reasons, answers.refusals)

    def hand_out(self, kind: str) -> None:
        """The result to all; the honest ones' receipts must be there."""
        adapter = first_state(numeric_terms()).adapter
        result = Result(self._invited.proposal.campaign, 2, adapter)
        apps = self._apps(kind, "receipt", lambda name: Receipt(digest(adapter)).to_bytes())
        keys = CoordinatorKeys(key_of(COORDINATOR), self._roster.find_key)
        received = deliver(FaultGrid(apps), result, self._context, keys, set(self._names), 0.4, lambda: False)
        assert set(self._names[:HONEST]) <= received
        self._outcomes[f"{kind} to a result", "taken"] += len(received) - HONEST
        self._outcomes[f"{kind} to a result", "refused"] += len(self._names) - len(received)

    def _apps(self, kind: str, true_kind: str, honest: Callable[[str], bytes]) -> dict[int, Any]:
        def app_of(name: str) -> Any:
            liar = Liar(name, self._context, key_of(name).sign, Mutator(next(self._seeds)))
            if name in self._liars:
                return lambda message, context: liar.reply(message, kind, honest(name))
            sealed = seal(true_kind, name, self._context, honest(name), key_of(name))
            return lambda message, context: Message(content(sealed), reply_to=message)

        return {number: app_of(name) for number, name in enumerate(self._names, start=11)}

    def _consent(self, name: str) -> bytes:
        return replace(self._acceptance, bank=name).to_bytes()

    def _real_acceptance(self) -> Acceptance:
        """As a bank's desk makes it, with a real plan."""
        plan = training_plan(self._config.privacy, self._config.training, 200)
        assert isinstance(plan, PrivacyPlan)
        campaign = self._invited.proposal.campaign
        return Acceptance("", campaign, plan.digest(), plan.to_json(), declared_size(200), plan.target_epsilon)


def _member(name: str) -> Member:
    line = node_key_line(ec.generate_private_key(ec.SECP384R1()).public_key())
    certificate = hashlib.sha256(name.encode()).hexdigest()
    return Member(name, key_of(name).public, line, certificate, "2026-03-01T12:00:00+00:00")


def _payload(message: Message) -> bytes:
    value = message.content.config_records[RECORD][PAYLOAD]
    assert isinstance(value, bytes)
    return value


def fuzz_coordinator(folder: Path, messages: int, seed: int, outcomes: Outcomes) -> None:
    """At least ``messages`` lies of every kind to the coordinator; raises what leaves it."""
    members, before = LyingMembers(outcomes, seed), outcomes.total()
    for kind in itertools.cycle(("acceptance", "error", "record")):
        members.propose(kind)
        members.hand_out("receipt" if kind == "acceptance" else kind)
        if outcomes.total() - before >= messages // 3:
            break
    for number in itertools.count():
        LyingCampaign(folder / str(number), seed + 1000 * number, outcomes, ROUND_S).run()
        if outcomes.total() - before >= messages:
            break
