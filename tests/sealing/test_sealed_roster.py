import base64
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedbank.sealing import roster as module
from fedbank.sealing.envelope import open_sealed, seal
from fedbank.sealing.keys import SigningKey
from fedbank.sealing.refusals import (
    BadSignatureError,
    RefusedError,
    RosterError,
    StaleRosterError,
    TooLargeError,
    UnknownSignerError,
    WrongContextError,
    WrongKindError,
)
from fedbank.sealing.roster import COORDINATOR, KIND, MAX_ROSTER_BYTES, Member, Roster, read_roster, sign_roster


def node_key(number: int, curve: ec.EllipticCurve | None = None) -> str:
    key = ec.derive_private_key(number, curve or ec.SECP384R1()).public_key()
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def member(name: str, number: int, revoked: str | None = None) -> Member:
    key = SigningKey.derived("roster", name).public
    return Member(name, key, node_key(number), f"{number:064x}", "2026-01-05T09:30:00+00:00", revoked)


KEY = SigningKey.derived("roster", COORDINATOR)
A, B, GONE = member("bank-a", 1), member("bank-b", 2), member("bank-c", 3, "2026-02-01T00:00:00Z")
ROSTER = Roster("Nordic Banks", 7, KEY.public, {"bank-b": B, "bank-c": GONE, "bank-a": A})


def test_a_signed_roster_is_read_as_it_was() -> None:
    found = read_roster(sign_roster(ROSTER, KEY), KEY.public, 7)
    assert found == ROSTER and found.digest() == ROSTER.digest()
    assert list(found.members) == ["bank-a", "bank-b", "bank-c"]
    assert found.active() == {"bank-a": A, "bank-b": B}


def test_the_digest_is_the_one_that_is_signed() -> None:
    opened = open_sealed(sign_roster(ROSTER, KEY), KIND, {COORDINATOR: KEY.public}.get, {}, MAX_ROSTER_BYTES)
    assert opened.digest == ROSTER.digest()
    others = [dataclasses.replace(ROSTER, sequence=8), dataclasses.replace(ROSTER, consortium="Nordic Bank")]
    others.append(
        dataclasses.replace(
            ROSTER, members={**ROSTER.members, "bank-b": dataclasses.replace(B, revoked="2026-03-01T00:00:00Z")}
        )
    )
    assert len({ROSTER.digest(), *(other.digest() for other in others)}) == 4


@pytest.mark.parametrize(
    ("name", "key"), [("bank-a", A.signing_key), ("bank-c", None), ("bank-x", None), (COORDINATOR, None)]
)
def test_only_an_active_member_has_a_key(name: str, key: object) -> None:
    assert ROSTER.find_key(name) == key


@pytest.mark.parametrize(("known", "accepted"), [(0, True), (6, True), (7, True), (8, False), (2**60, False)])
def test_the_sequence_number_only_rises(known: int, accepted: bool) -> None:
    content = sign_roster(ROSTER, KEY)
    if accepted:
        assert read_roster(content, KEY.public, known).sequence == 7
    else:
        with pytest.raises(StaleRosterError, match=f"{known} or higher, got 7"):
            read_roster(content, KEY.public, known)


def test_a_roster_is_signed_with_the_key_that_it_names() -> None:
    with pytest.raises(RosterError, match="Nothing was signed"):
        sign_roster(ROSTER, SigningKey.derived("other"))


def test_a_roster_that_nobody_would_read_is_not_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(PLAIN)
    monkeypatch.setattr(module, "MAX_ROSTER_BYTES", size)
    assert read_roster(sign_roster(ROSTER, KEY), KEY.public) == ROSTER
    monkeypatch.setattr(module, "MAX_ROSTER_BYTES", size - 1)
    with pytest.raises(RosterError, match=f"at most {size - 1} bytes, got {size}"):
        sign_roster(ROSTER, KEY)


# --- what must be refused ----------------------------------------------------------------------------------------

OTHER = SigningKey.derived("roster", "another coordinator")
ENVELOPES: dict[str, tuple[bytes, type[RefusedError]]] = {
    "another-coordinator": (
        sign_roster(dataclasses.replace(ROSTER, coordinator_key=OTHER.public), OTHER),
        BadSignatureError,
    ),
    "signed-by-a-member": (seal(KIND, "bank-a", {}, b"{}", SigningKey.derived("roster", "bank-a")), UnknownSignerError),
    "another-kind": (seal("update", COORDINATOR, {}, b"{}", KEY), WrongKindError),
    "with-a-context": (seal(KIND, COORDINATOR, {"campaign": "x"}, b"{}", KEY), WrongContextError),
    "too-large": (seal(KIND, COORDINATOR, {}, bytes(MAX_ROSTER_BYTES + 1), KEY), TooLargeError),
}


@pytest.mark.parametrize(("content", "error"), ENVELOPES.values(), ids=ENVELOPES.keys())
def test_a_roster_in_the_wrong_envelope_is_refused(content: bytes, error: type[RefusedError]) -> None:
    with pytest.raises(RefusedError) as refused:
        read_roster(content, KEY.public)
    assert type(refused.value) is error


def written(roster: Roster = ROSTER) -> dict[str, Any]:
    opened = open_sealed(sign_roster(roster, KEY), KIND, {COORDINATOR: KEY.public}.get, {}, MAX_ROSTER_BYTES)
    return dict(json.loads(bytes(opened.payload)))


def resealed(payload: bytes) -> bytes:
    """Signed by the coordinator itself: what is wrong is the roster, not the envelope."""
    return seal(KIND, COORDINATOR, {}, payload, KEY)


def with_field(name: str, value: object) -> bytes:
    return json.dumps({**written(), name: value}, sort_keys=True, separators=(",", ":")).encode()


def with_entry(name: str, value: object, bank: str = "bank-a") -> bytes:
    """``value`` None removes the field."""
    roster = written()
    roster["members"][bank][name] = value
    if value is None:
        del roster["members"][bank][name]
    return json.dumps(roster, sort_keys=True, separators=(",", ":")).encode()


def _compressed(line: str) -> str:
    """A line whose point says that it is compressed (SEC 1, section 2.3.3)."""
    kind, text = line.split()
    blob = bytearray(base64.b64decode(text))
    blob[-97] = 2
    return f"{kind} {base64.b64encode(blob).decode()}"


PLAIN = json.dumps(written(), sort_keys=True, separators=(",", ":")).encode()
P256 = node_key(5, ec.SECP256R1())
ED25519 = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
ED25519_LINE = ED25519.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()

PAYLOADS: dict[str, tuple[bytes, str]] = {
    "not-json": (b"hello", "canonical JSON"),
    "empty-object": (b"{}", "it lacks 'format'"),
    "list": (b"[]", "canonical form"),
    "spaces": (PLAIN.replace(b":", b": ", 1), "canonical form"),
    "member-twice": (PLAIN.replace(b'"bank-b":', b'"bank-a":'), "a name twice"),
    "field-twice": (PLAIN.replace(b'"sequence":7', b'"sequence":7,"sequence":7'), "a name twice"),
    "other-format": (with_field("format", "fedbank-roster/2"), "not of the format"),
    "field-added": (with_field("note", "x"), "unexpected keyword"),
    "field-added-with-a-long-name": (with_field("n" * 5000, "x"), "canonical JSON"),
    "sequence-float": (with_field("sequence", 7.0), "floating-point number 7.0"),
    "sequence-true": (with_field("sequence", True), "sequence number"),
    "sequence-text": (with_field("sequence", "7"), "sequence number"),
    "sequence-negative": (with_field("sequence", -1), "sequence number"),
    "consortium-missing": (PLAIN.replace(b'"consortium":"Nordic Banks",', b""), "canonical JSON"),
    "consortium-empty": (with_field("consortium", ""), "consortium's name"),
    "consortium-number": (with_field("consortium", 7), "canonical JSON"),
    "consortium-with-a-line-break": (with_field("consortium", "a\nb"), "consortium's name"),
    "consortium-with-a-space-behind": (with_field("consortium", "a "), "consortium's name"),
    "coordinator-of-another": (with_field("coordinator_key", OTHER.public.hex()), "who signed it"),
    "coordinator-key-short": (with_field("coordinator_key", "ab"), "64 lower-case"),
    "coordinator-key-null": (with_field("coordinator_key", None), "canonical JSON"),
    "members-list": (with_field("members", []), "canonical JSON"),
    "member-null": (with_field("members", {"bank-a": None}), "canonical JSON"),
    "member-field-added": (with_entry("email", "x"), "unexpected keyword"),
    "member-field-missing": (with_entry("node_key", None), "canonical JSON"),
    "bank-with-a-path": (PLAIN.replace(b'"bank-a":', b'"../bank":'), "a bank's name"),
    "bank-named-coordinator": (with_field("members", {COORDINATOR: written()["members"]["bank-a"]}), "a bank's name"),
    "bank-name-too-long": (with_field("members", {"b" * 65: written()["members"]["bank-a"]}), "a bank's name"),
    "signing-key-shared": (with_entry("signing_key", B.signing_key.hex()), "signing key of its own for bank-b"),
    "signing-key-of-a-revoked-bank": (with_entry("signing_key", GONE.signing_key.hex()), "signing key of its own"),
    "signing-key-of-the-coordinator": (with_entry("signing_key", KEY.public.hex()), "the one of the coordinator"),
    "signing-key-of-small-order": (with_entry("signing_key", "00" * 32), "Ed25519 public key"),
    "node-key-shared": (with_entry("node_key", B.node_key), "node key of its own for bank-b"),
    "node-key-p256": (with_entry("node_key", P256), "P-384 key"),
    "node-key-ed25519": (with_entry("node_key", ED25519_LINE), "P-384 key"),
    "node-key-with-a-comment": (with_entry("node_key", A.node_key + " root@host"), "no comment"),
    "node-key-cut": (with_entry("node_key", A.node_key[:-8]), "P-384 key"),
    "node-key-not-on-the-curve": (with_entry("node_key", A.node_key[:-12] + "AAAAAAAAAAAA"), "P-384 key"),
    "node-key-compressed": (with_entry("node_key", _compressed(A.node_key)), "P-384 key"),
    "node-key-number": (with_entry("node_key", 7), "canonical JSON"),
    "node-key-long": (with_entry("node_key", A.node_key + "A" * 1000), "P-384 key"),
    "certificate-shared": (with_entry("certificate_sha256", B.certificate_sha256), "certificate of its own"),
    "certificate-in-capitals": (with_entry("certificate_sha256", "AB" * 32), "a certificate's SHA-256"),
    "joined-without-zone": (with_entry("joined", "2026-01-05T09:30:00"), "time of joining"),
    "joined-elsewhere": (with_entry("joined", "2026-01-05T09:30:00+01:00"), "time of joining"),
    "joined-no-such-day": (with_entry("joined", "2026-02-30T09:30:00Z"), "time of joining"),
    "revoked-false": (with_entry("revoked", False), "canonical JSON"),
    "revoked-empty": (with_entry("revoked", ""), "time of revocation"),
}


@pytest.mark.parametrize(("payload", "match"), PAYLOADS.values(), ids=PAYLOADS.keys())
def test_a_roster_is_refused_even_if_its_coordinator_signed_it(payload: bytes, match: str) -> None:
    with pytest.raises(RosterError, match=match) as refused:
        read_roster(resealed(payload), KEY.public)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80])
def test_no_flipped_bit_in_a_roster_that_the_coordinator_signed_is_anything_but_refused_or_read(mask: int) -> None:
    """A digit may become another digit; what cannot be a roster is refused, never an error of another kind."""
    outcomes = set()
    for position in range(len(PLAIN)):
        changed = PLAIN[:position] + bytes([PLAIN[position] ^ mask]) + PLAIN[position + 1 :]
        try:
            assert read_roster(resealed(changed), KEY.public) != ROSTER
            outcomes.add("read")
        except RosterError:
            outcomes.add("refused")
    assert "refused" in outcomes and len(outcomes) == (1 if mask == 0x80 else 2)


def test_the_changes_above_start_from_a_roster_that_is_accepted() -> None:
    assert read_roster(resealed(PLAIN), KEY.public) == ROSTER


MISTAKES: dict[str, tuple[Callable[[], object], str]] = {
    "under-another-name": (lambda: dataclasses.replace(ROSTER, members={"bank-x": A}), "under its own name"),
    "shared-signing-key": (
        lambda: dataclasses.replace(
            ROSTER, members={"bank-a": A, "bank-b": dataclasses.replace(B, signing_key=A.signing_key)}
        ),
        "signing key of its own for bank-b, got the one of bank-a",
    ),
    "shared-node-key": (
        lambda: dataclasses.replace(
            ROSTER, members={"bank-a": A, "bank-b": dataclasses.replace(B, node_key=A.node_key)}
        ),
        "node key of its own for bank-b, got the one of bank-a",
    ),
    "name": (lambda: member("bank a", 1), "a bank's name"),
}


@pytest.mark.parametrize(("make", "match"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_roster_that_would_be_refused_cannot_be_made(make: Callable[[], object], match: str) -> None:
    with pytest.raises(RosterError, match=match):
        make()


def test_a_roster_does_not_change_with_what_it_was_made_from() -> None:
    members = {"bank-a": A}
    roster = dataclasses.replace(ROSTER, members=members)
    members["bank-b"] = B
    assert list(roster.members) == ["bank-a"]
