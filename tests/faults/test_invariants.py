"""Every invariant can fail: a finished consortium is damaged in every way, and the checker says what is wrong."""

import json
import re
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from invariants import Checker
from whole_consortium import NAME, WholeConsortium

from fedbank.adapter.state import from_bytes, to_bytes
from fedbank.aggregation.rounds import GlobalState
from fedbank.durable import write_record
from fedbank.evidence.log import EvidenceLog
from fedbank.evidence.origin import origin
from fedbank.membership.documents import Invitation
from fedbank.model.folder import tiny_folder
from fedbank.privacy.ledger import Ledger, read_ledger
from fedbank.sealing.keys import SigningKey
from fedbank_client.home import read_home
from fedbank_server.campaign_folder import CampaignFolder
from fedbank_server.store import CampaignStore

ROUNDS = 3
SETTINGS = (f"training.rounds={ROUNDS}", "training.local_steps=1", "training.expected_batch=8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    WholeConsortium(folder).run(*SETTINGS)
    return folder


class Copy:
    """A consortium to be damaged; ``checker`` has seen it whole."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.coordinator = folder, folder / "coordinator"
        (self.campaign,) = self.coordinator.glob("campaigns/*/")
        secrets = tuple(Invitation.read(path.read_bytes()).secret for path in sorted(folder.glob("*.inv")))
        banks = {bank: folder / bank for bank in ("bank-a", "bank-b")}
        self.checker = Checker(self.coordinator, banks, secrets=(*secrets, *(s.hex().encode() for s in secrets)))

    def history(self, change: Callable[[list[dict[str, Any]]], object]) -> None:
        path = self.campaign / "history.jsonl"
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        change(lines)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def flip(self, name: str, at: int = -20) -> None:
        """One bit of a file in the consortium's folder."""
        (path,) = self.folder.glob(name)
        content = bytearray(path.read_bytes())
        content[at] ^= 1
        path.write_bytes(content)

    def adapter(self, *folders: str) -> None:
        """Another adapter of the same shape in place of the released one."""
        for folder in folders:
            (path,) = (self.folder / folder).glob("campaigns/*/adapter/adapter_model.safetensors")
            path.write_bytes(to_bytes(self._other(), {"kind": "adapter"}))

    def state(self, number: int) -> None:
        CampaignStore(self.campaign / "state.safetensors").save(GlobalState(number, self._other()), {})

    def _other(self) -> dict[str, Any]:
        spec = CampaignFolder(self.campaign).proposal().adapter_spec(tiny_folder())
        mine = (self.campaign / "adapter" / "adapter_model.safetensors").read_bytes()
        return {name: tensor + np.float32(0.5) for name, tensor in from_bytes(mine, spec.shapes())[0].items()}

    def cut_ledger(self, lines: int) -> None:
        """An older copy of ledger and head together."""
        path = self.folder / "bank-a" / "training" / "ledger.jsonl"
        book = read_ledger(path)
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-lines]))
        left = book.lines - lines
        head = path.with_suffix(".head")
        head.unlink()
        write_record(head, left, json.dumps({"lines": left, "hash": book.hashes[left - 1]}).encode())

    def charge_again(self) -> None:
        path = self.folder / "bank-b" / "training" / "ledger.jsonl"
        charge = read_ledger(path).charges[0]
        Ledger(path, "bank-b").charge(replace(charge, replay_id=None), max_steps=100)

    def rewrite_evidence(self, name: str, without: str) -> None:
        """A log that verifies, signed with the party's own key, without the entries of one action."""
        folder = self.folder / name
        path = folder / "evidence.jsonl"
        entries = [json.loads(line) for line in path.read_bytes().splitlines()]
        path.unlink()
        path.with_suffix(".checkpoints").unlink()
        is_bank = name != "coordinator"
        key = read_home(folder).load_signing_key() if is_bank else SigningKey.load(folder / "coordinator.key")
        with EvidenceLog(path, origin(NAME, name), key) as log:
            for entry in entries:
                if entry["action"] != without:
                    log.append(entry["action"], entry["object"], entry["result"], entry["actor"])

    def leak(self, log: str, secret: bytes) -> None:
        with (self.folder / log).open("ab") as file:
            file.write(b"2026-01-01 INFO what was read: " + secret + b"\n")


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Copy:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return Copy(tmp_path)


def _same_key(lines: list[dict[str, Any]]) -> None:
    lines[0]["accepted"]["bank-b"]["key"] = lines[0]["accepted"]["bank-a"]["key"]


def _same_update(lines: list[dict[str, Any]]) -> None:
    lines[1]["accepted"]["bank-b"]["digest"] = lines[0]["accepted"]["bank-b"]["digest"]


def _twice_in_the_text(copy: Copy) -> None:
    path = copy.campaign / "history.jsonl"
    path.write_text(path.read_text().replace('"bank-b"', '"bank-a"'))


def _key_lines(path: Path) -> list[bytes]:
    return [line for line in path.read_bytes().splitlines() if not line.startswith(b"-----")]


DAMAGES: dict[str, tuple[Callable[[Copy], object], str]] = {
    "round-missing": (lambda c: c.history(lambda h: h.pop(0)), "no prefix, each once"),
    "round-twice": (lambda c: c.history(lambda h: h.insert(1, h[0])), "no prefix, each once"),
    "last-round-gone": (lambda c: c.history(lambda h: h.pop()), "is gone from the history, or was changed"),
    "not-complete": (lambda c: c.history(lambda h: h.pop()), "2 of 3 rounds are committed"),
    "round-changed": (
        lambda c: c.history(lambda h: h[0].update(began="x")),
        "is gone from the history, or was changed",
    ),
    "other-base": (
        lambda c: c.history(lambda h: h[1].update(base="0" * 64)),
        "round 2 does not begin with the adapter",
    ),
    "history-damaged": (lambda c: c.flip("coordinator/campaigns/*/history.jsonl", 0), "cannot be read"),
    "proposal-damaged": (lambda c: c.flip("coordinator/campaigns/*/proposal.json", 0), "cannot be read"),
    "other-state": (lambda c: c.state(ROUNDS), "state holds another adapter than was committed in round 3"),
    "older-state": (lambda c: c.state(1), "state is of round 1, the history ends with round 3"),
    "state-flipped": (lambda c: c.flip("coordinator/campaigns/*/state.safetensors"), "damaged file"),
    "other-change": (
        lambda c: c.history(lambda h: h[-1].update(change="0" * 64)),
        "is not that of the accepted updates",
    ),
    "update-flipped": (lambda c: c.flip("coordinator/**/00003-bank-a.update"), "cannot be computed again"),
    "bank-twice": (_twice_in_the_text, "counted twice in a round: bank-a"),
    "one-key-for-two": (lambda c: c.history(_same_key), "one key signed for two banks in round 1"),
    "update-twice": (lambda c: c.history(_same_update), "counts 2 times"),
    "other-weight": (
        lambda c: c.history(lambda h: h[0]["accepted"]["bank-a"].update(weight=1e12)),
        "counts bank-a with another key or weight",
    ),
    "below-quorum": (lambda c: c.history(lambda h: h[0]["accepted"].pop("bank-a")), "committed below the quorum"),
    "ledger-gone": (lambda c: shutil.rmtree(c.folder / "bank-a" / "training"), "bank-a: its ledger is gone"),
    "ledger-flipped": (lambda c: c.flip("bank-a/training/ledger.jsonl"), "bank-a: its ledger does not verify"),
    "ledger-older": (lambda c: c.cut_ledger(1), "bank-a: its ledger became shorter"),
    "not-charged": (lambda c: c.cut_ledger(1), "update to round 3 of .* was accepted and is not charged"),
    "charged-twice": (Copy.charge_again, "bank-b: round 1 of .* is charged 2 times"),
    "evidence-flipped": (
        lambda c: c.flip("coordinator/evidence.jsonl", 40),
        "coordinator: its evidence does not verify",
    ),
    "banks-evidence-flipped": (lambda c: c.flip("bank-b/evidence.jsonl", 40), "bank-b: its evidence does not verify"),
    "evidence-rewritten": (
        lambda c: c.rewrite_evidence("coordinator", "bank-invited"),
        "coordinator: its evidence does not verify",
    ),
    "evidence-gone": (lambda c: (c.coordinator / "evidence.jsonl").unlink(), "coordinator: its evidence does not"),
    "adapter-of-a-bank": (lambda c: c.adapter("bank-a"), "bank-a has another adapter"),
    "adapter-of-all": (
        lambda c: c.adapter("coordinator", "bank-a", "bank-b"),
        "released adapter is not the one that was committed last",
    ),
    "adapter-not-received": (
        lambda c: shutil.rmtree(next(c.folder.glob("bank-b/campaigns/*/adapter"))),
        "bank-b has not received the adapter",
    ),
    "adapter-not-written": (lambda c: shutil.rmtree(c.campaign / "adapter"), "the adapter was not written"),
    "token": (
        lambda c: c.leak("coordinator/server.log", (c.coordinator / "operator.token").read_bytes().strip()),
        "holds the secret of operator.token",
    ),
    "signing-key": (
        lambda c: c.leak("bank-a/client.log", _key_lines(c.folder / "bank-a/keys/signing.key")[0]),
        "holds the secret of signing.key",
    ),
    "signing-key-raw": (
        lambda c: c.leak(
            "bank-a/client.log",
            SigningKey.load(c.folder / "bank-a/keys/signing.key")._private.private_bytes_raw().hex().encode(),
        ),
        "holds the secret of signing.key",
    ),
    "node-key": (
        lambda c: c.leak("bank-b/status.json", _key_lines(c.folder / "bank-b/keys/node.key")[2]),
        "holds the secret of node.key",
    ),
    "tls-key": (
        lambda c: c.leak("coordinator/server.log", _key_lines(c.coordinator / "server.key")[1]),
        "holds the secret of server.key",
    ),
    "invitation": (
        lambda c: c.leak("coordinator/run.log", Invitation.read((c.folder / "bank-a.inv").read_bytes()).secret),
        "holds the secret of a secret that was given",
    ),
}


@pytest.mark.parametrize(("damage", "sentence"), DAMAGES.values(), ids=DAMAGES.keys())
def test_every_damage_is_told_in_a_sentence(copy: Copy, damage: Callable[[Copy], object], sentence: str) -> None:
    assert copy.checker.check(ended=True) == []
    damage(copy)
    found = copy.checker.check(ended=True)
    assert any(re.search(sentence, violation) for violation in found), found


@pytest.mark.parametrize(
    ("party", "action", "sentence"),
    [
        ("coordinator", "round-committed", "coordinator: its evidence does not name round 3"),
        ("bank-a", "update-sent", "bank-a: its evidence does not name its update to round 1"),
    ],
)
def test_evidence_that_was_never_written_is_missed(copy: Copy, party: str, action: str, sentence: str) -> None:
    """By a checker that has not seen it before."""
    copy.rewrite_evidence(party, action)
    found = copy.checker.check(ended=True)
    assert any(sentence in violation for violation in found), found


def test_what_is_only_just_being_written_is_looked_at_again(copy: Copy) -> None:
    path = copy.campaign / "state.safetensors"
    whole = path.read_bytes()
    copy.state(ROUNDS)
    assert copy.checker.check(ended=True) != []
    later = threading.Timer(0.7, lambda: path.write_bytes(whole))
    later.start()
    assert copy.checker.check() == []
    later.join()


def test_a_second_campaign_of_the_same_consortium_is_checked_too(tmp_path: Path) -> None:
    consortium = WholeConsortium(tmp_path)
    checker = Checker(consortium.coordinator, consortium.banks)
    for name in ("spring", "autumn"):
        consortium.run(*SETTINGS, "training.rounds=1", f"name={name}")
        assert checker.check(ended=True) == []
    assert checker.rounds() == 2
    for path in consortium.coordinator.glob("campaigns/spring-*/history.jsonl"):
        path.write_bytes(b"")
    assert any("spring" in violation and "gone" in violation for violation in checker.check(ended=True))
