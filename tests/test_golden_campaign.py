"""Messages of a campaign are read, refused and written as docs/formats/campaign.md and its vectors say."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedbank.adapter.heads import CallNote, LedgerHead
from fedbank.adapter.state import AdapterSpec, LoraPair, digest
from fedbank.adapter.update import Presence, RoundCall, RoundRequest, Update
from fedbank.errors import FedBankError, UpdateError
from fedbank.proposal import Acceptance, Proposal
from fedbank.result import Receipt, Result

GOLDEN = Path(__file__).parent / "golden"
VECTORS = json.loads((GOLDEN / "campaign.json").read_text("utf-8"))
READER, SHAPE = VECTORS["reader"], VECTORS["adapter"]
PAIR = LoraPair(SHAPE["name"], SHAPE["num_in"], SHAPE["num_out"])
SPEC = AdapterSpec(SHAPE["rank"], SHAPE["alpha"], tuple(SHAPE["target_modules"]), (PAIR,), "B")


def request_of(content: bytes) -> RoundRequest:
    """What a bank reads of a call: it was signed, so the bank trusts the plan that its mask opens, if it is its own."""
    request = RoundRequest.from_bytes(RoundCall.request_to(READER["bank"], READER["mask"], content), SPEC)
    if request.plan_digest != READER["plan_digest"]:
        raise UpdateError("Expected the bank's own plan, got another.")
    return request


READ: dict[str, Callable[[bytes], Any]] = {
    "proposal": Proposal.from_bytes,
    "acceptance": Acceptance.from_bytes,
    "presence": Presence.from_bytes,
    "call": request_of,
    "update": lambda content: Update.from_bytes(content, SPEC),
    "result": lambda content: Result.from_bytes(content, SPEC),
}
CASES = [pytest.param(kind, v, id=f"{kind}-{v['name']}") for kind, all_of in VECTORS["vectors"].items() for v in all_of]


def test_the_vectors_are_those_that_their_script_writes() -> None:
    assert runpy.run_path(str(GOLDEN / "make_campaign.py"))["build"]() == VECTORS


@pytest.mark.parametrize(("kind", "vector"), CASES)
def test_messages_are_read_and_refused_as_the_vectors_say(kind: str, vector: dict[str, Any]) -> None:
    content = bytes.fromhex(vector["hex"])
    if vector["refused"] is None:
        READ[kind](content)
        return
    with pytest.raises(FedBankError, match="Expected") as refused:
        READ[kind](content)
    assert type(refused.value).__name__ == vector["refused"]


@pytest.mark.parametrize(("kind", "vector"), [case for case in CASES if case.values[1]["refused"] is None])
def test_messages_are_written_as_the_vectors_say(kind: str, vector: dict[str, Any]) -> None:
    content = bytes.fromhex(vector["hex"])
    found = READ[kind](content)
    if isinstance(found, RoundRequest):
        assert found.head == LedgerHead.from_text(READER["head"])
        notes = {READER["bank"]: CallNote(READER["plan_digest"], found.head, found.twin)}
        masks = {READER["bank"]: READER["mask"]}
        found = RoundCall.to_all(found.campaign, found.round, notes, masks, found.adapter, found.previous)
    assert found.to_bytes() == content


@pytest.mark.parametrize("kind", ["proposal", "acceptance", "presence"])
def test_nothing_that_is_too_long_is_parsed(kind: str) -> None:
    content = bytes.fromhex(VECTORS["vectors"][kind][0]["hex"])
    with pytest.raises(UpdateError):
        READ[kind](content.ljust(64 * 1024 + 1))


def test_names_and_digests_are_those_of_the_vectors() -> None:
    first = {kind: bytes.fromhex(VECTORS["vectors"][kind][0]["hex"]) for kind in READ}
    assert Proposal.from_bytes(first["proposal"]).campaign == VECTORS["campaign"]
    adapter = Result.from_bytes(first["result"], SPEC).adapter
    assert Receipt(digest(adapter)).to_bytes().decode() == VECTORS["receipt"]
