"""Writes ``roster.json``: rosters that must be read and rosters that must be refused, each with the check that does it.

``python tests/golden/make_roster.py``. The keys are test keys: their seeds are in this file.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, derive_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

MINIMUM = 5


def private(name: str) -> Ed25519PrivateKey:
    """A test key, not a secret."""
    return Ed25519PrivateKey.from_private_bytes(
        hashlib.sha256(b"fedbank test key, not a secret: " + name.encode()).digest()
    )


def public(name: str) -> str:
    """Its public half in hexadecimal."""
    return private(name).public_key().public_bytes_raw().hex()


def node_key(number: int) -> str:
    """The OpenSSH line of a P-384 test key."""
    key = derive_private_key(number, SECP384R1()).public_key()
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def entry(name: str, number: int, revoked: str | None = None) -> dict[str, Any]:
    """One member as it is written."""
    return {
        "signing_key": public(name),
        "node_key": node_key(number),
        "certificate_sha256": f"{number:064x}",
        "joined": "2026-01-05T09:30:00+00:00",
        "revoked": revoked,
    }


MEMBERS = {"bank-a": entry("bank-a", 1), "bank-b": entry("bank-b", 2, "2026-02-01T00:00:00+00:00")}
ROSTER = {
    "format": "fedbank-roster/1",
    "consortium": "Nordic Banks",
    "sequence": MINIMUM,
    "coordinator_key": public("coordinator"),
    "members": MEMBERS,
}


def written(**changed: Any) -> bytes:
    """Canonical JSON, written out from docs/formats/roster.md and not from the implementation."""
    return json.dumps({**ROSTER, **changed}, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sealed(payload: bytes, kind: str = "roster", signer: str = "coordinator", key: str = "coordinator") -> bytes:
    """An envelope without context."""
    start = b"fedbank-envelope/1\n"
    for value in (kind, signer):
        start += len(value).to_bytes(2, "big") + value.encode()
    start += b"\0" + len(payload).to_bytes(8, "big") + hashlib.sha256(payload).digest()
    return start + private(key).sign(b"fedbank-envelope/1 signature\0" + start) + payload


def with_member(**changed: Any) -> bytes:
    """The roster with another bank-a."""
    return written(members={**MEMBERS, "bank-a": {**MEMBERS["bank-a"], **changed}})


def build() -> dict[str, Any]:
    """All vectors; ``refused`` is null for those that must be read."""
    plain = written()
    vectors: list[tuple[str, str | None, bytes]] = [
        ("read", None, sealed(plain)),
        ("read-no-members", None, sealed(written(members={}))),
        ("read-later", None, sealed(written(sequence=MINIMUM + 1))),
        ("sequence-older", "sequence", sealed(written(sequence=MINIMUM - 1))),
        ("signature-of-another-coordinator", "signature", sealed(plain, key="other")),
        ("signer-a-member", "signer", sealed(plain, signer="bank-a", key="bank-a")),
        ("kind-another", "kind", sealed(plain, kind="update")),
        ("payload-changed", "payload", sealed(plain)[:-1] + b" "),
        ("roster-names-another-coordinator", "roster", sealed(written(coordinator_key=public("other")))),
        ("roster-not-canonical-space", "roster", sealed(plain.replace(b":", b": ", 1))),
        ("roster-not-canonical-order", "roster", sealed(json.dumps(ROSTER, separators=(",", ":")).encode())),
        ("roster-floating-point", "roster", sealed(written(sequence=5.0))),
        ("roster-name-twice", "roster", sealed(plain.replace(b'"sequence":5', b'"sequence":5,"sequence":5'))),
        ("roster-field-more", "roster", sealed(written(note="x"))),
        ("roster-other-format", "roster", sealed(written(format="fedbank-roster/2"))),
        ("roster-signing-key-shared", "roster", sealed(with_member(signing_key=public("bank-b")))),
        ("roster-signing-key-of-the-coordinator", "roster", sealed(with_member(signing_key=public("coordinator")))),
        ("roster-node-key-shared", "roster", sealed(with_member(node_key=node_key(2)))),
        ("roster-node-key-with-comment", "roster", sealed(with_member(node_key=node_key(1) + " comment"))),
        ("roster-certificate-shared", "roster", sealed(with_member(certificate_sha256=f"{2:064x}"))),
        ("roster-bank-named-coordinator", "roster", sealed(written(members={"coordinator": MEMBERS["bank-a"]}))),
        ("roster-joined-in-local-time", "roster", sealed(with_member(joined="2026-01-05T09:30:00+01:00"))),
    ]
    return {
        "format": "fedbank-roster/1",
        "coordinator_key": public("coordinator"),
        "minimum_sequence": MINIMUM,
        "digest": hashlib.sha256(plain).hexdigest(),
        "vectors": [{"name": name, "refused": refused, "hex": content.hex()} for name, refused, content in vectors],
    }


if __name__ == "__main__":
    target = Path(__file__).with_name("roster.json")
    target.write_text(json.dumps(build(), indent=1, ensure_ascii=False) + "\n", "utf-8")
