"""A member that lies about its plan is left out by name, alone; the campaign goes on, also once it is honest again."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from acceptances import LIES, NOISE, TERMS, Lie, acceptance, larger
from flwr.app import ConfigRecord, Context, Message, RecordDict
from rich.console import Console

from fedbank.adapter.update import COORDINATOR, PAYLOAD, RECORD
from fedbank.aggregation.admit import Refused
from fedbank.config import load_campaign
from fedbank.consent import Consent
from fedbank.errors import RunError
from fedbank.evidence.log import EVIDENCE, EvidenceLog
from fedbank.evidence.origin import origin
from fedbank.proposal import ACCEPTANCE, PROPOSAL, unpack
from fedbank.sealing.envelope import open_sealed, seal
from fedbank.sealing.roster import read_roster
from fedbank_client.home import Home
from fedbank_server.consortium import Files
from fedbank_server.evidence import EvidenceObserver
from fedbank_server.members import revoke
from fedbank_server.overview import read_overview
from fedbank_server.parties import Asking, settle_parties
from fedbank_server.proposals import Invited, gather
from fedbank_server.run import Prepared, campaign_terms, prepare
from fedbank_server.status_command import render
from fedbank_simulations.inline import PARTITION_ID, InlineGrid

EVIL_MODES = ["loose", "infinite", "unreadable", "clip", "zero", "surrogate", "hugeint", "weight", "nan", "manifest"]
"""What a member was seen to do; each is the beginning of a lie's name."""
BANKS = ("bank-a", "bank-b", "bank-c")


def lie_of(mode: str) -> Lie:
    (found,) = [lie for name, (lie, _) in LIES.items() if name.split(":")[0] == mode]
    return found


class Members:
    """Three members that answer proposals with what they like, and the coordinator that asks them."""

    def __init__(self, coordinator: Path, homes: dict[str, Home]) -> None:
        self.coordinator, self.homes = coordinator, homes
        self.lies: dict[str, Lie] = {}
        self.asked: list[str] = []

    def prepared(self, *words: str) -> Prepared:
        return prepare(self.coordinator, load_campaign([*TERMS, "name=trial", "patience_s=3", *words]))

    def settle(self, *words: str) -> dict[str, Consent]:
        """One start of the coordinator, to where the rounds begin."""
        prepared, self.asked = self.prepared(*words), []
        key = prepared.keys.own
        with EvidenceLog(self.coordinator / EVIDENCE, origin(prepared.consortium.name, COORDINATOR), key) as log:
            observer = EvidenceObserver(log, prepared.proposal.campaign, lambda text: None)
            quorum = prepared.consortium.terms.quorum
            app: Any = self._answer
            grid = InlineGrid(app, {n + 1: {PARTITION_ID: n} for n in range(len(self.homes))})
            asking = Asking(grid, prepared.keys, quorum, 3.0, observer, lambda: False, lambda text: None)
            found = settle_parties(self.coordinator, prepared.kept, prepared.proposal, asking)
        assert found is not None
        assert campaign_terms(prepared, found, "r" * 64).weights.keys() == found.keys()
        return found

    def revoke(self, bank: str) -> None:
        revoke(self.coordinator, bank, datetime.now(UTC), reason="it lied")

    def shown(self) -> str:
        """What ``fedbank server status`` prints."""
        printed = StringIO()
        Console(width=400, file=printed).print(render(read_overview(self.coordinator, datetime.now(UTC))))
        return printed.getvalue()

    def evidence(self) -> list[str]:
        lines = (self.coordinator / EVIDENCE).read_text("utf-8").splitlines()
        return [json.dumps(json.loads(line)) for line in lines if "acceptance-refused" in line]

    def _answer(self, message: Message, context: Context) -> Message:
        bank = BANKS[int(context.node_config[PARTITION_ID])]
        home, content = self.homes[bank], message.content.config_records[RECORD][PAYLOAD]
        assert isinstance(content, bytes)
        keys = {COORDINATOR: home.coordinator_key}
        opened = open_sealed(content, PROPOSAL, keys.get, {"consortium": home.consortium}, 1 << 20)
        signed_roster, proposal = unpack(bytes(opened.payload))
        roster = read_roster(signed_roster, home.coordinator_key)
        said = acceptance(bank, proposal.campaign, self.lies.get(bank, lambda fields: None))
        signed_for = {"consortium": home.consortium, "campaign": proposal.campaign, "roster": roster.digest()}
        reply = seal(ACCEPTANCE, bank, signed_for, said, home.load_signing_key())
        self.asked.append(bank)
        return Message(RecordDict({RECORD: ConfigRecord({PAYLOAD: reply})}), reply_to=message)


@pytest.fixture
def members(coordinator: Path, make_member: Callable[..., Home]) -> Iterator[Members]:
    yield Members(coordinator, {bank: make_member(bank) for bank in BANKS})


@pytest.mark.parametrize("mode", EVIL_MODES)
def test_a_liar_is_excluded_by_name_and_takes_part_as_soon_as_it_is_honest(members: Members, mode: str) -> None:
    members.lies = {"bank-c": lie_of(mode)}
    assert members.settle().keys() == {"bank-a", "bank-b"}
    assert members.settle().keys() == {"bank-a", "bank-b"}, "it still lies"
    assert "bank-c" in members.asked
    shown = members.shown()
    assert "bank-c" in shown and "excluded" in shown and "Expected" in shown
    entries = members.evidence()
    assert len(entries) == 2 and all("bank-c: Expected" in entry for entry in entries)
    members.lies = {}
    found = members.settle()
    assert found.keys() == set(BANKS) and found["bank-c"].plan is not None
    assert found["bank-c"].plan.noise_multiplier == NOISE
    assert "excluded" not in members.shown()
    members.settle()
    assert members.asked == [], "who takes part is not asked again"


def test_a_liar_that_was_revoked_is_not_asked_again(members: Members) -> None:
    members.lies = {"bank-c": lie_of("unreadable")}
    members.settle()
    members.revoke("bank-c")
    assert members.settle().keys() == {"bank-a", "bank-b"}
    assert members.asked == []


def test_below_the_quorum_the_error_names_the_liars_and_the_same_campaign_begins_once_they_are_honest(
    members: Members,
) -> None:
    members.lies = {"bank-b": lie_of("surrogate"), "bank-c": lie_of("hugeint")}
    with pytest.raises(RunError, match=r"Expected 2 banks.*Excluded: bank-b \(Expected .*Excluded: bank-c \(Expected"):
        members.settle()
    assert not members.prepared().kept.began
    assert members.shown().count("excluded") == 2
    members.lies = {}
    assert members.settle().keys() == set(BANKS)


def poison(members: Members, bank: str, lie: Lie) -> Path:
    """What an earlier version stored without looking."""
    prepared = members.prepared()
    path = prepared.kept.folder / "accepted" / f"{bank}.json"
    path.write_bytes(acceptance(bank, prepared.proposal.campaign, lie))
    return path


@pytest.mark.parametrize("mode", EVIL_MODES)
def test_a_folder_that_was_poisoned_earlier_recovers(members: Members, mode: str) -> None:
    members.settle()
    path = poison(members, "bank-c", lie_of(mode))
    members.lies = {"bank-c": lie_of(mode)}
    assert members.settle().keys() == {"bank-a", "bank-b"}
    assert not path.exists() and (path.parents[1] / "dropped" / path.name).exists()
    assert "excluded" in members.shown() and "bank-c: Expected" in members.evidence()[0]
    members.lies = {}
    assert members.settle().keys() == set(BANKS)


def test_a_poisoned_folder_of_a_revoked_bank_goes_on_without_it(members: Members) -> None:
    members.settle()
    poison(members, "bank-c", lie_of("zero"))
    members.revoke("bank-c")
    assert members.settle().keys() == {"bank-a", "bank-b"}
    assert members.asked == []


def test_a_sound_acceptance_of_a_bank_that_was_revoked_before_its_first_update_is_dropped(members: Members) -> None:
    members.settle()
    members.revoke("bank-c")
    assert members.settle().keys() == {"bank-a", "bank-b"}
    assert "bank-c was revoked" in members.evidence()[0]


def test_who_was_dropped_does_not_lower_the_quorum(members: Members) -> None:
    members.settle()
    for bank in ("bank-b", "bank-c"):
        poison(members, bank, lie_of("nan"))
        members.lies[bank] = lie_of("nan")
    for _ in range(2):
        with pytest.raises(RunError, match=r"Expected 2 banks to accept the campaign, got .'bank-a'"):
            members.settle()
    del members.lies["bank-b"]
    assert members.settle().keys() == {"bank-a", "bank-b"}


def test_a_damaged_list_of_excluded_banks_is_a_plain_error_and_status_says_so(members: Members) -> None:
    members.lies = {"bank-c": lie_of("clip")}
    members.settle()
    (path,) = members.coordinator.glob("campaigns/*/excluded.json")
    path.write_text("[1]", "utf-8")
    with pytest.raises(RunError, match=r"Delete the file"):
        members.settle()
    assert "Delete the file" in members.shown()
    path.unlink()
    members.settle()


def test_two_answers_in_one_banks_name_are_one_and_the_sound_one_counts(members: Members) -> None:
    """Whichever node is faster: a bank that runs twice excludes itself only if no answer of it holds."""
    prepared = members.prepared()
    files = Files(members.coordinator)
    roster = read_roster(files.roster.read_bytes(), prepared.keys.own.public)
    invited = Invited(prepared.proposal, roster, files.roster.read_bytes(), prepared.keys.own)
    lies = iter([lie_of("weight"), lambda fields: None])

    def answer(message: Message, context: Context) -> Message:
        members.lies = {"bank-a": next(lies)}
        return members._answer(message, context)

    app: Any = answer
    grid = InlineGrid(app, {1: {PARTITION_ID: 0}, 2: {PARTITION_ID: 0}})
    answers = gather(grid, invited, {"bank-a", "bank-b"}, 0.5, lambda: False)
    assert (answers.accepted.keys(), answers.excluded) == ({"bank-a"}, {})


def test_who_takes_part_already_cannot_change_what_it_accepted_when_another_is_asked_again(members: Members) -> None:
    members.lies = {"bank-c": lie_of("clip")}
    members.settle()
    (path,) = members.coordinator.glob("campaigns/*/accepted/bank-a.json")
    before = path.read_bytes()
    for lie in (lie_of("weight"), larger):
        members.lies = {"bank-a": lie, "bank-c": lie_of("clip")}
        assert members.settle().keys() == {"bank-a", "bank-b"}, "bank-a was not asked: its answer is not looked at"
        assert path.read_bytes() == before
    members.lies = {"bank-a": larger}
    assert members.settle().keys() == set(BANKS)
    assert path.read_bytes() == before and "excluded" not in members.shown()


def test_what_nobody_signed_excludes_nobody(members: Members) -> None:
    prepared, files = members.prepared(), Files(members.coordinator)
    roster = read_roster(files.roster.read_bytes(), prepared.keys.own.public)
    invited = Invited(prepared.proposal, roster, files.roster.read_bytes(), prepared.keys.own)
    read = invited.read(b"nonsense")
    assert isinstance(read, Refused) and read.bank == ""
