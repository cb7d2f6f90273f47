import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from fedbank.sealing.envelope import open_sealed, seal
from fedbank.sealing.keys import PublicKey, SigningKey
from fedbank.sealing.refusals import RefusedError
from fedbank.sealing.roster import read_roster, sign_roster

GOLDEN = Path(__file__).parents[1] / "golden"
ENVELOPES, ROSTERS = (json.loads((GOLDEN / f"{name}.json").read_text("utf-8")) for name in ("envelope", "roster"))
EXPECT = ENVELOPES["expect"]


@pytest.mark.parametrize("name", ["envelope", "roster"])
def test_the_vectors_are_those_that_their_script_writes(name: str) -> None:
    built = runpy.run_path(str(GOLDEN / f"make_{name}.py"))["build"]()
    assert json.loads((GOLDEN / f"{name}.json").read_text("utf-8")) == built


@pytest.mark.parametrize("vector", ENVELOPES["vectors"], ids=lambda vector: vector["name"])
def test_envelopes_are_opened_and_refused_as_the_vectors_say(vector: dict[str, Any]) -> None:
    keys = {name: PublicKey.from_hex(text) for name, text in ENVELOPES["keys"].items()}
    content = bytes.fromhex(vector["hex"])
    if vector["refused"] is None:
        opened = open_sealed(content, EXPECT["kind"], keys.get, EXPECT["context"], EXPECT["max_bytes"])
        assert opened.signer == "bank-a" and content.endswith(bytes(opened.payload))
        return
    with pytest.raises(RefusedError) as refused:
        open_sealed(content, EXPECT["kind"], keys.get, EXPECT["context"], EXPECT["max_bytes"])
    assert refused.value.check == vector["refused"] == vector["name"].split("-")[0]


@pytest.mark.parametrize("payload", [b"what bank-a has to say", b""])
def test_envelopes_are_written_as_the_vectors_say(tmp_path: Path, payload: bytes) -> None:
    written = {vector["name"]: vector["hex"] for vector in ENVELOPES["vectors"]}
    path = tmp_path / "key.pem"
    runpy.run_path(str(GOLDEN / "make_envelope.py"))["private"]("bank-a")
    key = SigningKey(runpy.run_path(str(GOLDEN / "make_envelope.py"))["private"]("bank-a"))
    key.save(path)
    sealed = seal("update", "bank-a", EXPECT["context"], payload, SigningKey.load(path))
    assert sealed.hex() == written["opens" if payload else "opens-empty-payload"]


@pytest.mark.parametrize("vector", ROSTERS["vectors"], ids=lambda vector: vector["name"])
def test_rosters_are_read_and_refused_as_the_vectors_say(vector: dict[str, Any]) -> None:
    key = PublicKey.from_hex(ROSTERS["coordinator_key"])
    content, minimum = bytes.fromhex(vector["hex"]), ROSTERS["minimum_sequence"]
    if vector["refused"] is None:
        assert read_roster(content, key, minimum).consortium == "Nordic Banks"
        return
    with pytest.raises(RefusedError) as refused:
        read_roster(content, key, minimum)
    assert refused.value.check == vector["refused"] == vector["name"].split("-")[0]


def test_a_roster_is_written_as_the_vectors_say() -> None:
    content = bytes.fromhex(ROSTERS["vectors"][0]["hex"])
    roster = read_roster(content, PublicKey.from_hex(ROSTERS["coordinator_key"]), 0)
    key = SigningKey(runpy.run_path(str(GOLDEN / "make_roster.py"))["private"]("coordinator"))
    assert sign_roster(roster, key) == content and roster.digest() == ROSTERS["digest"]
    assert list(roster.active()) == ["bank-a"]
