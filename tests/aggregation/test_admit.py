"""What is let into a round: one honest update passes, everything hostile is a refusal by the right check."""

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from fedbank.adapter.state import AdapterSpec, Released
from fedbank.adapter.update import COORDINATOR, REQUEST, UPDATE, Update
from fedbank.aggregation.admit import MAX_REASON, Admitted, Expected, Refused, admit, l2_norm, max_message_bytes
from fedbank.aggregation.server_step import ServerStep
from fedbank.aggregation.terms import CampaignTerms
from fedbank.sealing.envelope import seal
from fedbank.sealing.keys import PublicKey, SigningKey

BANKS = ("bank-a", "bank-b", "bank-c")
KEYS = {name: SigningKey.derived("admission", name) for name in (*BANKS, COORDINATOR, "outsider")}
BASE = "b" * 64
EXPECTED = Expected(3, BASE, 2)


@pytest.fixture
def terms(small_spec: AdapterSpec) -> CampaignTerms:
    return CampaignTerms(
        "spring",
        small_spec,
        "ffa",
        ServerStep(),
        4,
        5,
        dict.fromkeys(BANKS, 1.0),
        {bank: f"plan-{bank}" for bank in BANKS},
        consortium="north",
        roster_digest="r" * 64,
        max_update_norm=10.0,
    )


def find_key(bank: str) -> PublicKey | None:
    """Active members; the coordinator and outsiders have keys, too, but are none."""
    return KEYS[bank].public if bank in KEYS else None


def tensors(terms: CampaignTerms, norm: float = 5.0) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    drawn = {n: rng.normal(size=s).astype(np.float32) for n, s in terms.adapter.trainable_shapes().items()}
    factor = norm / l2_norm(drawn)
    return {name: (tensor * factor).astype(np.float32) for name, tensor in drawn.items()}


def update(terms: CampaignTerms, **changes: Any) -> Update:
    values = Released(changes.pop("tensors", tensors(terms)))
    return dataclasses.replace(Update("spring", 3, "bank-a", BASE, "plan-bank-a", 5, values), **changes)


def sealed(terms: CampaignTerms, payload: bytes, signer: str = "bank-a", **options: Any) -> bytes:
    kind, key = options.get("kind", UPDATE), options.get("key", signer)
    return seal(kind, signer, {**terms.context, **options.get("context", {})}, payload, KEYS[key])


def raw(terms: CampaignTerms, replaced: dict[str, Any], signer: str = "bank-a") -> bytes:
    """An update whose tensors are what ``replaced`` says; ``None`` leaves one out."""
    named = {n: t for n, t in {**tensors(terms), **replaced}.items() if t is not None}
    fields = {"kind": "update", "campaign": "spring", "round": 3, "bank": "bank-a", "base_digest": BASE}
    fields |= {"plan_digest": "plan-bank-a", "num_steps": 5, "head": f"{0:012d}:{0:064d}"}
    return sealed(terms, save(named, metadata={"fedbank": json.dumps(fields)}), signer)


def changed(**changes: Any) -> Callable[[CampaignTerms], bytes]:
    return lambda terms: sealed(terms, update(terms, **changes).to_bytes())


def values(change: Callable[[Any], Any]) -> Callable[[CampaignTerms], bytes]:
    return lambda terms: raw(terms, {B: change(tensors(terms)[B])})


def declared(entry: dict[str, Any]) -> Callable[[CampaignTerms], bytes]:
    """A header that says ``entry`` of tensors, and no tensors."""

    def make(terms: CampaignTerms) -> bytes:
        header = json.dumps({"__metadata__": {"fedbank": "{}"}, **entry}).encode()
        return sealed(terms, len(header).to_bytes(8, "little") + header)

    return make


def _first(value: float) -> Callable[[Any], Any]:
    def put(tensor: Any) -> Any:
        tensor[0, 0] = value
        return tensor

    return put


B = "l.q_proj.lora_B.weight"
HOSTILE: dict[str, tuple[str, Callable[[CampaignTerms], object]]] = {
    "not bytes": ("format", lambda t: "text"),
    "nothing": ("format", lambda t: b""),
    "a number": ("format", lambda t: 7),
    "random bytes": ("format", lambda t: bytes(range(256)) * 20),
    "an update without an envelope": ("format", lambda t: update(t).to_bytes()),
    "larger than any update can be": ("size", lambda t: bytes(max_message_bytes(t.adapter) + 1)),
    "a payload larger than any update": ("size", lambda t: sealed(t, bytes(2 << 20))),
    "cut": ("format", lambda t: sealed(t, update(t).to_bytes())[:-1]),
    "signed as a request": ("kind", lambda t: sealed(t, update(t).to_bytes(), kind=REQUEST)),
    "an outsider": ("signer", lambda t: sealed(t, update(t, bank="outsider").to_bytes(), "outsider")),
    "the coordinator itself": ("signer", lambda t: sealed(t, update(t, bank=COORDINATOR).to_bytes(), COORDINATOR)),
    "forged: signed by another bank's key": ("signature", lambda t: sealed(t, update(t).to_bytes(), key="bank-b")),
    "changed on the way": ("payload", lambda t: sealed(t, update(t).to_bytes())[:-1] + b"\x7f"),
    "for another consortium": (
        "context",
        lambda t: sealed(t, update(t).to_bytes(), context={"consortium": "south"}),
    ),
    "for another campaign": ("context", lambda t: sealed(t, update(t).to_bytes(), context={"campaign": "autumn"})),
    "under another roster": ("context", lambda t: sealed(t, update(t).to_bytes(), context={"roster": "0" * 64})),
    "no safetensors": ("schema", lambda t: sealed(t, b"hello")),
    "a shape transposed": ("schema", values(lambda tensor: tensor.T.copy())),
    "another rank": ("schema", values(lambda tensor: np.zeros((9, 4), np.float32))),
    "one value to broadcast": ("schema", values(lambda tensor: np.zeros(1, np.float32))),
    "half precision": ("schema", values(lambda tensor: tensor.astype(np.float16))),
    "double precision": ("schema", values(lambda tensor: tensor.astype(np.float64))),
    "a tensor missing": ("schema", lambda t: raw(t, {B: None})),
    "a tensor too many": ("schema", lambda t: raw(t, {"loss": np.zeros(1, np.float32)})),
    "100 000 tensors": ("size", declared({f"t{number}": {} for number in range(100_000)})),
    "as many tensors as a header holds": ("schema", declared({f"t{number}": {} for number in range(60_000)})),
    "a name of a megabyte": ("schema", declared({"n" * 1_000_000: {}})),
    "a type of a megabyte": ("schema", declared({B: {"dtype": "F" * 1_000_000}})),
    "a shape that is nested 900 deep": ("schema", declared({B: {"shape": json.loads("[" * 900 + "]" * 900)}})),
    "NaN": ("finite", values(_first(np.nan))),
    "infinity": ("finite", values(_first(np.inf))),
    "minus infinity": ("finite", values(_first(-np.inf))),
    "in the name of another bank": ("bank", changed(bank="bank-b", plan_digest="plan-bank-b")),
    "1e38": ("norm", values(_first(1e38))),
    "a hundred times the norm": ("norm", lambda t: sealed(t, update(t, tensors=tensors(t, 1000.0)).to_bytes())),
    "just above the norm": ("norm", lambda t: sealed(t, update(t, tensors=tensors(t, 10.001)).to_bytes())),
    "a foreign campaign inside": ("campaign", changed(campaign="autumn")),
    "replayed from the round before": ("late", changed(round=2)),
    "replayed from long ago": ("late", changed(round=-5)),
    "of a round with 4000 digits": ("schema", changed(round=-(10**4000))),
    "of a round to come": ("round", changed(round=4)),
    "from a stale base": ("base", changed(base_digest="0" * 64)),
    "under another plan": ("plan", changed(plan_digest="plan-bank-b")),
    "fewer steps": ("steps", changed(num_steps=4)),
    "more steps": ("steps", changed(num_steps=500)),
}


ROWS = {"finite": 13, "schema": 14, "norm": 15, "steps": 15, "size": 16}
ROWS |= dict.fromkeys(("context", "campaign", "late", "round", "base"), 11)
ROWS |= dict.fromkeys(("signer", "signature", "payload", "bank"), 12)
"""Of the table of faults, by check."""


def marks_of(name: str, check: str) -> list[pytest.MarkDecorator]:
    row = 13 if name == "1e38" else ROWS.get(check)
    return [] if row is None else [pytest.mark.fault(row)]


@pytest.mark.parametrize(
    ("check", "hostile"),
    [pytest.param(check, make, id=name, marks=marks_of(name, check)) for name, (check, make) in HOSTILE.items()],
)
def test_hostile_updates_are_refused_by_the_right_check(
    terms: CampaignTerms, check: str, hostile: Callable[[CampaignTerms], object]
) -> None:
    found = admit(hostile(terms), terms, EXPECTED, find_key)
    assert isinstance(found, Refused)
    assert found.check == check
    assert found.reason.startswith("Expected") and len(found.reason) <= MAX_REASON and "Traceback" not in found.reason


def test_an_honest_update_is_admitted_as_it_was_sent(terms: CampaignTerms) -> None:
    sent = update(terms)
    found = admit(sealed(terms, sent.to_bytes()), terms, EXPECTED, find_key)
    assert isinstance(found, Admitted)
    assert found.update.to_bytes() == sent.to_bytes()
    assert (found.key, found.num_bytes) == (KEYS["bank-a"].public.hex(), len(sent.to_bytes()))
    assert found.norm == pytest.approx(5.0, rel=1e-6)


def test_norms_up_to_the_bound_pass_and_none_is_rescaled(terms: CampaignTerms) -> None:
    found = admit(sealed(terms, update(terms, tensors=tensors(terms, 9.999)).to_bytes()), terms, EXPECTED, find_key)
    assert isinstance(found, Admitted) and found.norm == pytest.approx(9.999)
    free = dataclasses.replace(terms, max_update_norm=math.inf)
    huge = admit(raw(free, {B: np.full((9, 3), 1e38, np.float32)}), free, EXPECTED, find_key)
    assert isinstance(huge, Admitted) and huge.norm == pytest.approx(1e38 * 27**0.5)


def test_every_bank_has_a_bound_of_its_own_whatever_the_others_may_send(terms: CampaignTerms) -> None:
    """A bank with much noise is allowed long updates; nobody else is."""
    unequal = dataclasses.replace(terms, norm_bounds={"bank-a": 4.0, "bank-b": 1e6})
    for bank, norm, check in (
        ("bank-a", 5.0, "norm"),
        ("bank-b", 5e5, ""),
        ("bank-c", 5.0, ""),
        ("bank-c", 11.0, "norm"),
    ):
        sent = update(terms, bank=bank, plan_digest=f"plan-{bank}", tensors=tensors(terms, norm))
        found = admit(sealed(unequal, sent.to_bytes(), bank), unequal, EXPECTED, find_key)
        assert (found.check if isinstance(found, Refused) else "") == check, (bank, norm)
    shorter = admit(sealed(unequal, update(terms).to_bytes()), unequal, EXPECTED, find_key)
    assert isinstance(shorter, Refused) and "no longer than 4; it has 5" in shorter.reason


@pytest.mark.fault(11)
def test_a_second_update_of_a_bank_is_a_duplicate_and_one_of_another_bank_is_none(terms: CampaignTerms) -> None:
    have = dataclasses.replace(EXPECTED, have={"bank-a"})
    found = admit(sealed(terms, update(terms).to_bytes()), terms, have, find_key)
    assert isinstance(found, Refused) and (found.check, found.bank) == ("duplicate", "bank-a")
    other = update(terms, bank="bank-b", plan_digest="plan-bank-b")
    assert isinstance(admit(sealed(terms, other.to_bytes(), "bank-b"), terms, have, find_key), Admitted)


@pytest.mark.fault(17)
def test_a_bank_that_was_revoked_is_out_at_once(terms: CampaignTerms) -> None:
    content = sealed(terms, update(terms).to_bytes())
    found = admit(content, terms, EXPECTED, lambda bank: None if bank == "bank-a" else find_key(bank))
    assert isinstance(found, Refused) and found.check == "signer"


def test_a_member_of_the_consortium_who_is_not_in_the_campaign_is_refused(terms: CampaignTerms) -> None:
    content = sealed(terms, update(terms, bank="outsider").to_bytes(), "outsider")
    found = admit(content, terms, EXPECTED, find_key)
    assert isinstance(found, Refused) and found.check == "signer"


@pytest.mark.parametrize("claim", ["weight", "num_examples", "num_customers"])
@pytest.mark.parametrize("value", [10**12, 0, -1])
@pytest.mark.fault(15)
def test_a_message_cannot_name_its_own_weight(terms: CampaignTerms, claim: str, value: int) -> None:
    """An update has no field for it, and one field more is no update."""
    content = update(terms).to_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    fields = json.loads(header["__metadata__"]["fedbank"]) | {claim: value}
    header["__metadata__"]["fedbank"] = json.dumps(fields)
    written = json.dumps(header).encode()
    found = admit(
        sealed(terms, len(written).to_bytes(8, "little") + written + content[8 + length :]), terms, EXPECTED, find_key
    )
    assert isinstance(found, Refused) and found.check == "schema" and "Expected the fields" in found.reason


def test_every_flipped_byte_is_refused(terms: CampaignTerms) -> None:
    """Whatever is changed on the way: the signature covers all of it."""
    content = sealed(terms, update(terms).to_bytes())
    for at in range(0, len(content), 3):
        flipped = content[:at] + bytes([content[at] ^ 0x41]) + content[at + 1 :]
        assert isinstance(admit(flipped, terms, EXPECTED, find_key), Refused), at
