"""The bank's side of the fuzz: a coordinator that lies with its real key, to the real app of a real desk."""

import itertools
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from fuzz_replies import Liar, content, record
from mutator import Mutator

from fedbank.adapter.heads import CallNote
from fedbank.adapter.state import initial_state
from fedbank.adapter.update import COORDINATOR, RoundCall
from fedbank.config import load_campaign, load_client, load_simulate
from fedbank.evidence.log import EVIDENCE, EvidenceLog
from fedbank.evidence.origin import origin
from fedbank.evidence.verify import verify_log
from fedbank.membership.documents import Invitation
from fedbank.model.folder import base_digest, tiny_folder
from fedbank.model.loading import ModelSpec, load_base_model, load_tokenizer
from fedbank.proposal import Proposal
from fedbank.result import Result
from fedbank.sealing.envelope import seal
from fedbank.sealing.keys import SigningKey
from fedbank_client.desk import Desk, Resources
from fedbank_client.enrolment import enrol, join
from fedbank_client.home import Home, read_home
from fedbank_client.resident import bank_app
from fedbank_server.authority import create_consortium, load_authority
from fedbank_server.consortium import Files
from fedbank_server.flower_hooks import set_identity
from fedbank_server.invitations import invite
from fedbank_server.members import active_members, admit
from fedbank_server.observer import Observer
from fedbank_server.run import prepare, run_campaign
from fedbank_simulations.inline import PARTITION_ID, InlineGrid
from fedbank_simulations.scenario import divide

Outcomes = Counter[tuple[str, str]]
SETTINGS = ("training.rounds=2", "training.local_steps=1", "training.expected_batch=4", "privacy.epsilon=2")
KINDS = ("proposal", "proposal", "question", "call", "call", "result", "record", "type")
POLICY = {
    "max_epsilon_per_campaign": "4.0",
    "max_epsilon_total": "200.0",
    "accept_plain_updates": "true",
    "max_steps_per_round": "2",
}
TYPES = ("train", "train.x", "query.enrol", "query.propose", "query.result", "query.nothing", "evaluate", "query.other")


@dataclass(frozen=True)
class World:
    """A consortium of two banks, the desk and the app of one, and the coordinator's key in a liar's hands."""

    coordinator: Path
    home: Home
    desk: Desk
    evidence: EvidenceLog
    apps: tuple[ClientApp, ClientApp]
    key: SigningKey

    @classmethod
    def make(cls, folder: Path) -> "World":
        """With the tiny model and made-up customers."""
        coordinator = folder / "coordinator"
        create_consortium(coordinator, "Test", datetime.now(UTC), hosts=("localhost",), port=9443, passphrase=None)
        homes = [_join(coordinator, folder / bank, bank) for bank in ("bank-a", "bank-b")]
        (desk, evidence), (other, _) = map(_desk, homes)
        key = SigningKey.load(Files(coordinator).coordinator_key)
        return cls(coordinator, homes[0], desk, evidence, (bank_app(desk), bank_app(other)), key)

    def answer(self, message: Message, number: int = 0) -> Message:
        """What the app of bank-a (or bank-b) says."""
        reply: Message = self.apps[number](message, Context(1, 1 + number, {}, RecordDict(), {}))
        return reply

    def campaign(self, *words: str) -> Any:
        """A campaign of the real coordinator from its proposal to its end; the last state."""
        prepared = prepare(self.coordinator, load_campaign([*SETTINGS, "patience_s=30", *words]))
        app: Any = lambda message, context: self.answer(message, int(context.node_config[PARTITION_ID]))  # noqa: E731
        grid = InlineGrid(app, {number + 1: {PARTITION_ID: number} for number in range(2)})
        return run_campaign(prepared, grid, Observer(), lambda: False, lambda text: None)


def _join(coordinator: Path, folder: Path, bank: str) -> Home:
    now, files = datetime.now(UTC), Files(coordinator)
    invitation = Invitation.read(invite(coordinator, bank, now, valid=timedelta(hours=1))[1])
    home = enrol(folder, bank, invitation, now)[0]
    join(home, admit(coordinator, home.request.read_bytes(), lambda: load_authority(files, None), now)[1], now)
    _allow(home.policy)
    return read_home(home.folder)


def _desk(home: Home) -> tuple[Desk, EvidenceLog]:
    key = home.load_signing_key()
    evidence = EvidenceLog(home.folder / EVIDENCE, origin(home.consortium, home.bank), key, sync=False)

    def note(action: str, about: str, result: str) -> None:
        evidence.append(action, about, result, home.bank)

    return Desk(home, load_client([]), _resources(), note), evidence


class LyingCoordinator:
    """Draws messages that lie; every one is answered by the bank's app."""

    def __init__(self, world: World, seed: int, outcomes: Outcomes) -> None:
        self._world, self._outcomes, self._mutator = world, outcomes, Mutator(seed)
        self._roster = Files(world.coordinator).roster.read_bytes()
        proposal = Proposal.of("Test", base_digest(tiny_folder()), load_campaign([*SETTINGS]))
        self._proposal, about = proposal.to_bytes(), {"consortium": "Test"}
        accepted = world.desk.consider(seal("proposal", COORDINATOR, about, self._packed(self._proposal), world.key))
        context = {**about, "campaign": accepted.campaign, "roster": active_members(world.coordinator).digest()}
        self._outside = Liar(COORDINATOR, about, world.key.sign, self._mutator)
        self._inside = replace(self._outside, context=context)
        notes, masks = {"bank-a": CallNote(accepted.plan_digest)}, {"bank-a": world.desk.seal().mask()}
        adapter = initial_state(proposal.adapter_spec(tiny_folder()), seed=0)
        self._call_1 = RoundCall.to_all(accepted.campaign, 1, notes, masks, adapter).to_bytes()
        self._result_2 = Result(accepted.campaign, 2, adapter).to_bytes()

    def lie(self, kind: str) -> None:
        """One message of ``kind``, and what the bank made of it; raises whatever leaves the app."""
        message_type, records = self._draw(kind)
        message = Message(records, 1, message_type)
        message.metadata.__dict__["_message_id"] = "0" * 64
        reply = self._world.answer(message)
        self._outcomes[kind, reply.error.reason[:34] if reply.has_error() else "answered"] += 1

    def _draw(self, kind: str) -> tuple[str, RecordDict]:
        mutator = self._mutator
        match kind:
            case "proposal":
                payload = self._packed(mutator.json_text(self._proposal))
                if mutator.random.random() < 0.2:
                    payload = mutator.blob(payload)
                sign = self._outside.sign
                return "query.propose", content(
                    mutator.envelope(kind, COORDINATOR, self._outside.context, payload, sign)
                )
            case "question":
                return "query.enrol", content(self._inside.sealed(kind, b"n" * 16))
            case "call":
                return "train", content(self._inside.sealed("request", self._call_1))
            case "result":
                return "query.result", content(self._inside.sealed(kind, self._result_2))
            case "record":
                return mutator.random.choice(TYPES[2:5]), record(mutator, self._proposal)
            case _:
                return mutator.random.choice(TYPES), content(self._proposal)

    def _packed(self, proposal: bytes) -> bytes:
        return len(self._roster).to_bytes(4, "big") + self._roster + proposal


def _resources() -> Resources:
    config = load_simulate(["data.customers=60", "banks=2"])
    base = load_base_model(ModelSpec("tiny"))
    return Resources(base, base_digest(tiny_folder()), load_tokenizer(ModelSpec("tiny")), divide(config)[0]["bank-1"])


def _allow(policy: Path) -> None:
    """What the campaigns of the fuzz need, and little more."""
    allowed = POLICY | {"base_model_digests": f"[{base_digest(tiny_folder())}]"}
    lines = policy.read_text("utf-8").splitlines()
    kept = [f"{name}: {allowed[name]}" if (name := line.partition(":")[0]) in allowed else line for line in lines]
    policy.write_text("\n".join(kept) + "\n", "utf-8")


def fuzz_bank(folder: Path, messages: int, seed: int, outcomes: Outcomes) -> None:
    """``messages`` lies of every kind to the bank, then an honest campaign; raises what leaves the bank."""
    set_identity(1, 1)
    world = World.make(folder)
    liar = LyingCoordinator(world, seed, outcomes)
    for kind in itertools.islice(itertools.cycle(KINDS), messages):
        liar.lie(kind)
    state = world.campaign("name=honest")
    assert state is not None and state.round == 2, "an honest campaign completes afterwards"
    world.evidence.close()
    verify_log(world.home.folder / EVIDENCE, world.home.load_signing_key().public.raw)
