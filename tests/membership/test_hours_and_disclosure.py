"""What a bank tells by its own choice (its hours, what its ledger has spent) and what it keeps (how far it is)."""

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fedbank.adapter.state import digest, initial_state
from fedbank.adapter.update import Disclosure, Later, RoundRequest, Update
from fedbank.config import load_campaign, load_client, load_simulate
from fedbank.errors import UpdateError
from fedbank.model.folder import base_digest, tiny_folder
from fedbank.model.loading import ModelSpec, load_base_model, load_tokenizer
from fedbank.privacy.accounting import round_up
from fedbank.privacy.budget import Budget
from fedbank.privacy.ledger import LEDGER, Charge, read_ledger
from fedbank.proposal import PROPOSAL, Proposal, pack
from fedbank.sealing.envelope import seal
from fedbank.sealing.keys import SigningKey
from fedbank_client.desk import Desk, Resources
from fedbank_client.disclosure import disclosure
from fedbank_client.egress import refusal_for
from fedbank_client.home import TRAINING, Home
from fedbank_client.policy import ClosedError, Policy, read_policy
from fedbank_client.progress import Progress, ProgressWatch
from fedbank_server.consortium import Files
from fedbank_server.members import active_members
from fedbank_simulations.scenario import divide

SETTINGS = ("training.rounds=2", "training.local_steps=3", "training.expected_batch=8", "privacy.epsilon=3")
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def policy(home: Home, **lines: str) -> Policy:
    """The bank's policy with these lines in the place of its own."""
    kept = [
        f"{name}: {lines[name]}" if (name := line.partition(":")[0]) in lines else line
        for line in home.policy.read_text("utf-8").splitlines()
    ]
    home.policy.write_text("\n".join(kept) + "\n", "utf-8")
    return read_policy(home.policy)


@pytest.mark.parametrize(
    ("hours", "zone", "at", "opens"),
    [
        ("any", "UTC", "2026-03-01T12:00+00:00", "2026-03-01T12:00+00:00"),
        ("22:00-06:00", "UTC", "2026-03-01T12:00+00:00", "2026-03-01T22:00+00:00"),
        ("22:00-06:00", "UTC", "2026-03-01T05:59+00:00", "2026-03-01T05:59+00:00"),
        ("22:00-06:00", "UTC", "2026-03-01T06:00+00:00", "2026-03-01T22:00+00:00"),
        ("01:00-05:00", "UTC", "2026-03-01T12:00+00:00", "2026-03-02T01:00+00:00"),
        ("22:00-23:00", "Europe/Berlin", "2026-03-28T22:00+00:00", "2026-03-29T20:00+00:00"),  # clocks go forward
        ("09:00-17:00", "Asia/Shanghai", "2026-03-01T12:00+00:00", "2026-03-02T01:00+00:00"),
    ],
)
def test_the_hour_that_is_told_is_when_the_hours_begin_next(
    enrol_bank: Callable[..., Home], hours: str, zone: str, at: str, opens: str
) -> None:
    found = policy(enrol_bank(), training_hours=f'"{hours}"', time_zone=zone)
    moment = found.opens(datetime.fromisoformat(at))
    assert moment == datetime.fromisoformat(opens) and found.is_open(moment)


CHARGES = [
    Charge("winter", 1, "b", "p", 0.1, 1.0, 5, None),
    Charge("spring", 1, "b", "q", 0.1, 1.0, 5, None),
    Charge("spring", 2, "b", "q", 0.1, 1.0, 5, None),
]


def test_nothing_the_campaign_or_everything_is_told_as_the_bank_chose() -> None:
    book = Budget(None, None, 1e-5)
    spring, everything = (round_up(book.spent(CHARGES, name).epsilon, 4) for name in ("spring", None))
    assert 0 < spring < everything
    assert disclosure("nothing", CHARGES, "spring", 1e-5) is None
    assert disclosure("campaign", CHARGES, "spring", 1e-5) == Disclosure(spring, None)
    assert disclosure("total", CHARGES, "spring", 1e-5) == Disclosure(spring, everything)


@pytest.mark.parametrize(
    "fields",
    [
        None,
        [],
        {},
        {"campaign": 1.0},
        {"campaign": 1.0, "total": None, "loss": 0.3},
        {"campaign": None, "total": None},
        {"campaign": "1.0", "total": None},
        {"campaign": 1, "total": None},
        {"campaign": 0.0, "total": None},
        {"campaign": float("nan"), "total": None},
        {"campaign": 1.0, "total": float("inf")},
        {"campaign": 1.0, "total": True},
    ],
    ids=str,
)
def test_what_is_no_disclosure_is_refused(fields: object) -> None:
    with pytest.raises(UpdateError, match="Expected epsilons"):
        Disclosure.from_fields(fields)


class Bank:
    """A desk that has agreed to a campaign, and its rounds as the coordinator asks for them."""

    def __init__(self, coordinator: Path, home: Home, **options: Any) -> None:
        self.home, self.notes = home, list[tuple[str, ...]]()
        base, digest = load_base_model(ModelSpec("tiny")), base_digest(tiny_folder())
        customers = divide(load_simulate(["data.customers=60", "banks=2"]))[0]["bank-1"]
        own = Resources(base, digest, load_tokenizer(ModelSpec("tiny")), customers)
        self.desk = Desk(home, load_client([]), own, lambda *entry: self.notes.append(entry), **options)
        proposal = Proposal.of(active_members(coordinator).consortium, digest, load_campaign(SETTINGS))
        content = pack(Files(coordinator).roster.read_bytes(), proposal)
        key = SigningKey.load(Files(coordinator).coordinator_key)
        signed = seal(PROPOSAL, "coordinator", {"consortium": proposal.consortium}, content, key)
        self.accepted = self.desk.consider(signed)
        self._adapter = initial_state(proposal.adapter_spec(tiny_folder()), seed=0)
        self.spec = proposal.adapter_spec(tiny_folder())

    def train(self, number: int = 1) -> Update:
        plan, before = self.accepted.plan_digest, "" if number == 1 else digest(self._adapter)
        request = RoundRequest(self.accepted.campaign, number, plan, self._adapter, before)
        return self.desk.open_bank().train(request.to_bytes())


@pytest.fixture
def open_bank(coordinator: Path, make_member: Callable[..., Home]) -> Callable[..., Bank]:
    def make(*, lines: dict[str, str] | None = None, **options: Any) -> Bank:
        home = make_member()
        allowed = {"base_model_digests": f"[{base_digest(tiny_folder())}]", "accept_plain_updates": "true"}
        policy(home, **allowed | (lines or {}))
        return Bank(coordinator, home, **options)

    return make


@pytest.mark.parametrize("choice", ["nothing", "campaign", "total"])
def test_an_update_tells_what_the_policy_says_and_the_same_again(open_bank: Callable[..., Bank], choice: str) -> None:
    bank = open_bank(lines={"disclose_epsilon": choice})
    update = bank.train()
    charges = read_ledger(bank.home.folder / TRAINING / LEDGER).charges
    delta = json.loads(bank.accepted.plan)["delta"]
    spent = Budget(None, None, delta).spent(charges).epsilon
    told = None if update.disclosed is None else asdict(update.disclosed)
    expected = {"campaign": round_up(spent, 4), "total": round_up(spent, 4) if choice == "total" else None}
    assert told == (None if choice == "nothing" else expected)
    assert Update.from_bytes(update.to_bytes(), bank.spec).disclosed == update.disclosed
    policy(bank.home, disclose_epsilon="nothing")
    assert bank.train().to_bytes() == update.to_bytes(), "a finished update is sent again as it was made"
    assert bank.train(2).disclosed is None, "the choice of the moment counts"


def test_outside_its_hours_a_bank_says_when_and_trains_then(open_bank: Callable[..., Bank]) -> None:
    clock = [NOON]
    bank = open_bank(lines={"training_hours": '"22:00-06:00"'}, now=lambda: clock[0])
    with pytest.raises(ClosedError, match="22:00") as closed:
        bank.train()
    assert refusal_for(closed.value) == Later(NOON + timedelta(hours=10))
    assert [note[0] for note in bank.notes] == ["campaign-accepted", "round-postponed"]
    assert not (bank.home.folder / TRAINING / LEDGER).exists()
    clock[0] = NOON + timedelta(hours=10)
    assert bank.train().round == 1


def test_the_end_is_expected_from_the_steps_that_are_done() -> None:
    clock = [NOON]
    watch = ProgressWatch(lambda: clock[0])
    assert watch.current() is None
    watch.stepped("spring", 2, 0, 10)
    assert watch.current() == Progress("spring", 2, 0, 10, NOON, None)
    clock[0] = NOON + timedelta(seconds=6)
    watch.stepped("spring", 2, 3, 10)
    found = watch.current()
    assert found == Progress("spring", 2, 3, 10, NOON, NOON + timedelta(seconds=20))
    assert found is not None and json.loads(json.dumps(found.as_json()))["expected_end"] == "2026-03-01T12:00:20+00:00"
    watch.stepped("spring", 3, 0, 10)
    assert watch.current() == Progress("spring", 3, 0, 10, clock[0], None)
    watch.ended()
    assert watch.current() is None


def test_every_step_of_a_round_is_seen_while_it_is_trained_and_none_afterwards(
    open_bank: Callable[..., Bank], monkeypatch: pytest.MonkeyPatch
) -> None:
    bank, seen = open_bank(), list[tuple[int, int, int]]()
    stepped = bank.desk.progress.stepped

    def watch(*about: Any) -> None:
        stepped(*about)
        current = bank.desk.progress.current()
        assert current is not None
        seen.append((current.round, current.step, current.num_steps))

    monkeypatch.setattr(bank.desk.progress, "stepped", watch)
    bank.train()
    assert seen == [(1, step, 3) for step in range(4)]
    assert bank.desk.progress.current() is None
