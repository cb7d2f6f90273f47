"""A bank's folder that was copied does not spend its budget twice: real desks, real coordinator, real files.

The reproduction of the attack is ``one identity, two copies of the bank's folder``: both ledgers verify, and together
they spent 9.44 of 8 before the coordinator handed back what it had seen.
"""

import json
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Error, Message

from fedbank.adapter.heads import LedgerHead
from fedbank.config import load_campaign, load_client, load_simulate
from fedbank.errors import RunError
from fedbank.evidence.log import EVIDENCE, EvidenceLog
from fedbank.evidence.origin import origin
from fedbank.membership.health import FAIL
from fedbank.model.folder import base_digest, tiny_folder
from fedbank.model.loading import ModelSpec, load_base_model, load_tokenizer
from fedbank.privacy.accounting import PrivacyEvent, compute_epsilon
from fedbank.privacy.ledger import LEDGER, Charge, read_ledger
from fedbank.sealing.keys import SigningKey
from fedbank_client.desk import Desk, Resources
from fedbank_client.doctor import examine
from fedbank_client.home import TRAINING, Home, read_home
from fedbank_client.resident import bank_app
from fedbank_client.start import status_command
from fedbank_server.backup import back_up, restore
from fedbank_server.consortium import Files
from fedbank_server.evidence import EvidenceObserver
from fedbank_server.heads import HEADS, Heads
from fedbank_server.run import prepare, run_campaign
from fedbank_simulations.inline import PARTITION_ID, InlineGrid
from fedbank_simulations.scenario import divide

SETTINGS = ("training.rounds=2", "training.local_steps=2", "training.expected_batch=8", "attempts=1")
LIMIT, DELTA = 6.5, 1e-5
NOT_DELIVERED = 3
"""Flower's code for a message whose reply never arrived."""


class Process:
    """One start of a bank's client in a folder.

    With ``copy`` its folder is copied under that name when the first round's call arrives, and its machine goes down
    before the answer is sent.
    """

    def __init__(self, home: Home, *, copy: str = "") -> None:
        self.home, self.notes, self._copy = home, list[tuple[str, str, str]](), copy
        shares, _ = divide(load_simulate(["data.customers=60", "banks=2"]))
        own = Resources(
            load_base_model(ModelSpec("tiny")),
            base_digest(tiny_folder()),
            load_tokenizer(ModelSpec("tiny")),
            shares["bank-1"],
        )
        desk = Desk(home, load_client([]), own, lambda *entry: self.notes.append(entry))
        self._app = bank_app(desk)

    def __call__(self, message: Message, context: Context) -> Message:
        goes_down = message.metadata.message_type == "train" and self._copy
        if goes_down:
            copied(self.home, self._copy)
        reply: Message = self._app(message, context)
        if goes_down:
            self._copy = ""
            return Message(Error(NOT_DELIVERED, "its machine went down"), reply_to=message)
        return reply

    def charges(self) -> list[Charge]:
        path = self.home.folder / TRAINING / LEDGER
        return read_ledger(path).charges if path.exists() else []


def policy(home: Home, limit: float = LIMIT) -> Home:
    """The folder with a policy that allows campaigns up to ``limit`` in all."""
    allowed = {
        "max_epsilon_per_campaign": "5.0",
        "max_epsilon_total": str(limit),
        "accept_plain_updates": "true",
        "base_model_digests": f"[{base_digest(tiny_folder())}]",
    }
    lines = home.policy.read_text("utf-8").splitlines()
    kept = [f"{name}: {allowed[name]}" if (name := line.partition(":")[0]) in allowed else line for line in lines]
    home.policy.write_text("\n".join(kept) + "\n", "utf-8")
    return home


@pytest.fixture
def two_members(make_member: Callable[..., Home]) -> tuple[Home, Home]:
    return policy(make_member("bank-1")), policy(make_member("bank-2"), 100.0)


def copied(home: Home, name: str) -> Home:
    """A copy of the folder, with its keys, under another path."""
    return read_home(Path(shutil.copytree(home.folder, home.folder.with_name(name))))


def run(
    coordinator: Path,
    name: str,
    *processes: Process,
    epsilon: float = 3.0,
    patience_s: float = 60.0,
    stop: Any = lambda: False,
) -> Any:
    """One campaign to its end, on a grid with one node for each process."""
    words = [*SETTINGS, f"name={name}", f"privacy.epsilon={epsilon}", f"patience_s={patience_s}"]
    prepared = prepare(coordinator, load_campaign(words))

    def app(message: Message, context: Context) -> Message:
        return processes[int(context.node_config[PARTITION_ID])](message, context)

    nodes = {number + 1: {PARTITION_ID: number} for number in range(len(processes))}
    key = SigningKey.load(Files(coordinator).coordinator_key)
    with EvidenceLog(coordinator / EVIDENCE, origin(prepared.consortium.name, "coordinator"), key) as log:
        observer = EvidenceObserver(log, prepared.proposal.campaign, lambda text: None)
        end = time.monotonic() + 120  # a test that waits for ever says nothing
        stopped = lambda: stop() or time.monotonic() > end  # noqa: E731
        return run_campaign(prepared, InlineGrid(app, nodes), observer, stopped, lambda text: None)  # type: ignore[arg-type]


def epsilon_of(*charged: list[Charge]) -> float:
    """Of everything that was executed on the customers, in whatever folder it was written down."""
    events = [PrivacyEvent(c.sampling_prob, c.noise_multiplier, c.num_steps) for charges in charged for c in charges]
    return float(compute_epsilon(events, DELTA))


def test_a_copy_of_the_folder_spends_nothing(
    coordinator: Path, two_members: tuple[Home, Home], capsys: pytest.CaptureFixture[str]
) -> None:
    """The attack as it was: copied after some rounds, the original spends on, then the copy, never at one time."""
    original, other = Process(two_members[0]), Process(two_members[1])
    run(coordinator, "spring", original, other)
    copy = copied(original.home, "copy")
    run(coordinator, "summer", original, other, epsilon=5.0)
    assert len(original.charges()) == 4
    with pytest.raises(RunError, match=r"bank-1 \(refused.*privacy rules do not allow"):
        run(coordinator, "autumn", original, other, epsilon=5.0)  # what is left suffices for one round
    assert len(original.charges()) == 5
    before = (copy.folder / TRAINING / LEDGER).read_bytes()
    second = Process(copy)
    with pytest.raises(RunError, match=r"bank-1 \(refused.*privacy rules do not allow"):
        run(coordinator, "winter", second, other, epsilon=5.0)
    assert (copy.folder / TRAINING / LEDGER).read_bytes() == before, "the copy was not charged"
    assert len(second.charges()) == 2, "and verifies as before"
    assert epsilon_of(original.charges(), second.charges()[2:]) <= LIMIT
    assert epsilon_of(original.charges(), second.charges()) > LIMIT, "which one more campaign would have passed"

    (noted,) = [entry for entry in second.notes if entry[0] == "bank-stopped"]
    assert "which the coordinator has seen, got no such line" in noted[2]
    assert "bank-1 to go on with its ledger" in (coordinator / EVIDENCE).read_text()
    status_command(["--dir", str(copy.folder)])
    assert "STOPPED, trains nothing: Expected the ledger of bank-1 to hold line 6" in capsys.readouterr().out
    findings = [found for found in examine(copy, lambda: datetime.now(UTC), reach=False) if found.level == FAIL]
    assert any("a copy of the folder has spent too" in finding.message for finding in findings)
    with pytest.raises(RunError, match="Expected 2 banks to accept"):
        run(coordinator, "next", Process(copy), other, patience_s=3.0)
    assert len(Process(copy).charges()) == 2


def test_two_copies_together_spend_at_most_the_round_that_the_coordinator_never_heard_of(
    coordinator: Path, two_members: tuple[Home, Home]
) -> None:
    """The original is charged for a round and dies before its update is sent; a copy from before then answers."""
    original, other = Process(two_members[0], copy="copy"), Process(two_members[1])
    run(coordinator, "spring", original, other, stop=lambda: bool(original.charges()))
    assert [charge.round for charge in original.charges()] == [1]
    second = Process(read_home(two_members[0].folder.with_name("copy")))
    run(coordinator, "spring", second, other)
    assert [charge.round for charge in second.charges()] == [1, 2]
    again = Process(two_members[0])
    with pytest.raises(RunError, match="paused"):
        run(coordinator, "summer", again, other)
    assert [charge.round for charge in again.charges()] == [1]
    assert "bank-stopped" in [entry[0] for entry in again.notes]
    run(coordinator, "autumn", second, other)
    assert len(second.charges()) == 4, "the one whose ledger the coordinator knows goes on"


def test_whoever_puts_the_newest_ledger_back_goes_on(coordinator: Path, two_members: tuple[Home, Home]) -> None:
    """An older copy of the whole folder, from a backup; then the person finds the newest ledger after all."""
    original, other = Process(two_members[0]), Process(two_members[1])
    backup = copied(original.home, "backup")
    run(coordinator, "spring", original, other)
    restored = Process(backup)
    with pytest.raises(RunError, match="paused"):
        run(coordinator, "summer", restored, other)
    for name in (LEDGER, "ledger.head"):
        shutil.copy2(original.home.folder / TRAINING / name, backup.folder / TRAINING / name)
    (backup.folder / TRAINING / "stopped.json").unlink()
    run(coordinator, "summer", Process(backup), other)
    assert len(Process(backup).charges()) == 4


def test_a_ledger_that_is_lost_is_begun_anew_only_when_both_sides_say_so(
    coordinator: Path, two_members: tuple[Home, Home]
) -> None:
    original, other = Process(two_members[0]), Process(two_members[1])
    run(coordinator, "spring", original, other)
    training = original.home.folder / TRAINING
    shutil.rmtree(training)
    with pytest.raises(RunError, match="paused"):
        run(coordinator, "summer", Process(original.home), other)
    (training / "stopped.json").unlink()
    with pytest.raises(RunError, match="paused"):
        run(coordinator, "summer", Process(original.home), other)
    (training / "stopped.json").unlink()
    (coordinator / HEADS / "bank-1.json").unlink()
    run(coordinator, "summer", Process(original.home), other)
    assert [charge.round for charge in Process(original.home).charges()] == [1, 2]


def test_what_was_seen_of_the_ledgers_is_in_a_backup(coordinator: Path, tmp_path: Path) -> None:
    head = LedgerHead(7, "ab" * 32)
    Heads(coordinator / HEADS).report("bank-1", head)
    back_up(coordinator, tmp_path / "backup", None)
    restore(tmp_path / "backup", tmp_path / "again", None)
    assert json.loads((tmp_path / "again" / HEADS / "bank-1.json").read_text())["head"] == head.to_text()
