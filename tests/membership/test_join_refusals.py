"""Everything that can be wrong with a file of joining, and what the person is told."""

import base64
import contextlib
import json
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hostile_keys import HOSTILE_KEYS, new_node_key

from fedbank.certificates import (
    CLIENT_AUTH,
    CertificateError,
    check_certificate,
    parse_certificate,
)
from fedbank.errors import FedBankError, RunError
from fedbank.membership.documents import Invitation, JoinPackage, LeaveNotice
from fedbank.membership.request import JoinRequest, node_key_line
from fedbank.membership.signed import MAX_DOCUMENT, DocumentError, open_document, write_document
from fedbank.sealing.canonical import canonical
from fedbank.sealing.keys import SigningKey
from fedbank_client.enrolment import enrol, join
from fedbank_client.home import Home
from fedbank_server.authority import load_authority
from fedbank_server.consortium import Files
from fedbank_server.flower_hooks import node_key_bytes

Give = Callable[..., bytes]


def edited(content: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    document = json.loads(content)
    change(document)
    return canonical(document)


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda content: b"", "damaged"),
    "cut": (lambda content: content[: len(content) // 2], "damaged"),
    "one name changed": (lambda content: edited(content, lambda d: d["body"].update(bank="bank-z")), "signature"),
    "signature of another": (lambda content: edited(content, lambda d: d.update(signature="00" * 64)), "signature"),
    "signature no hex": (lambda content: edited(content, lambda d: d.update(signature="zz")), "signature"),
    "another format": (lambda content: edited(content, lambda d: d.update(format="fedbank-x/1")), "format"),
    "more than it should be": (lambda content: edited(content, lambda d: d.update(more="1")), "damaged"),
    "a name twice": (lambda content: content.replace(b'"format"', b'"body":{},"format"', 1), "damaged"),
    "other spaces": (lambda content: content.replace(b'":"', b'": "', 1), "damaged"),
    "deep": (lambda content: b"[" * 100_000, "damaged"),
    "large": (lambda content: content + b" " * MAX_DOCUMENT, "damaged"),
    "not UTF-8": (lambda content: b"\xff\xfe" + content, "damaged"),
    "a list": (lambda content: b"[]", "damaged"),
    "no body": (lambda content: edited(content, lambda d: d.update(body=[])), "damaged"),
    "a number for a text": (lambda content: content.replace(b'"format":"', b'"format":1.5,"x":"', 1), "damaged"),
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("kind", ["invitation", "request", "package", "notice"])
def test_a_damaged_or_edited_file_is_refused(
    kind: str, name: str, give_invitation: Give, make_member: Callable[..., Home], admit_bank: Give, now: datetime
) -> None:
    change, words = DAMAGE[name]
    home = make_member()
    key = home.load_signing_key()
    content, read = {
        "invitation": (lambda: give_invitation("bank-b"), Invitation.read),
        "request": (home.request.read_bytes, JoinRequest.read),
        "package": (lambda: admit_bank(home), lambda content: JoinPackage.read(content, home.coordinator_key)),
        "notice": (
            LeaveNotice(home.consortium, home.bank, now).write(key).__bytes__,
            lambda content: LeaveNotice.read(content, key.public),
        ),
    }[kind]
    read(content())  # type: ignore[operator]
    with pytest.raises(DocumentError, match=words):
        read(change(content()))  # type: ignore[operator]


def test_a_signature_under_one_format_is_none_under_another(now: datetime) -> None:
    """A leave notice cannot be made into anything else that a bank signs."""
    key = SigningKey.derived("bank")
    notice = LeaveNotice("Test Consortium", "bank-a", now).write(key)
    moved = edited(notice, lambda document: document.update(format="fedbank-another/1"))
    with pytest.raises(DocumentError, match="signature"):
        open_document(moved, "fedbank-another/1", lambda _: key.public)


def test_line_ends_of_mail_programs_do_no_harm(give_invitation: Give) -> None:
    content = give_invitation()
    assert Invitation.read(b"\r\n" + content.strip() + b"\r\n\r\n") == Invitation.read(content)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bank": "Bank A"}, "bank"),
        ({"bank": "../etc"}, "bank"),
        ({"bank": "coordinator"}, "bank"),
        ({"consortium": "a\nb"}, "consortium"),
        ({"addresses": []}, "addresses"),
        ({"addresses": ["https://a:1"]}, "address"),
        ({"addresses": "localhost:1"}, "addresses"),
        ({"expires": "2026-01-01T00:00:00"}, "time with its zone"),
        ({"expires": "soon"}, "time with its zone"),
        ({"secret": "ab"}, "secret"),
        ({"secret": None}, "secret"),
        ({"authority": 7}, "authority"),
        ({"coordinator_key": "00" * 32}, "public key"),
    ],
)
def test_a_signed_invitation_with_impossible_values_is_refused(
    give_invitation: Give, change: dict[str, object], words: str
) -> None:
    """Whoever signs an invitation is not believed: its form is checked as well."""
    key = SigningKey.derived("a clumsy coordinator")
    body = json.loads(give_invitation())["body"] | {"coordinator_key": key.public.hex()} | change
    with pytest.raises(DocumentError, match=words) as refused:
        Invitation.read(write_document("fedbank-invitation/1", body, key))
    assert str(body["secret"]) not in str(refused.value)


def test_a_bank_refuses_an_invitation_without_an_authority(
    tmp_path: Path, give_invitation: Give, now: datetime, make_member: Callable[..., Home]
) -> None:
    leaf = make_member("bank-b").certificate.read_text()
    body = json.loads(give_invitation())["body"]
    key = SigningKey.derived("a clumsy coordinator")
    for authority, words in (("no certificate", "certificate"), (leaf, "another issuer")):
        body |= {"authority": authority, "coordinator_key": key.public.hex()}
        invitation = Invitation.read(write_document("fedbank-invitation/1", body, key))
        with pytest.raises(CertificateError, match=words):
            enrol(tmp_path / "bank-a", "bank-a", invitation, now)


def test_an_existing_folder_is_not_enrolled_over(enrol_bank: Callable[..., Home], tmp_path: Path) -> None:
    home = enrol_bank()
    kept = home.signing_key.read_bytes()
    with pytest.raises(RunError, match="exists"):
        enrol_bank()
    assert home.signing_key.read_bytes() == kept


@pytest.mark.parametrize("kind", HOSTILE_KEYS)
def test_a_node_key_that_the_parser_does_not_know_is_a_plain_refusal(kind: str) -> None:
    """``cryptography`` has an exception of another family for each of them."""
    line = node_key_line(new_node_key().public_key())
    assert len(node_key_bytes(line)) > 0
    with pytest.raises(RunError, match="Expected a node key"):
        node_key_bytes(HOSTILE_KEYS[kind](line))


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_key_that_others_can_read_is_not_used(
    enrol_bank: Callable[..., Home], admit_bank: Give, coordinator: Path, now: datetime, mode: int
) -> None:
    home = enrol_bank()
    package = admit_bank(home)
    for path in home.secrets():
        path.chmod(mode)
        with pytest.raises(FedBankError, match="chmod 600"):
            join(home, package, now)
        path.chmod(0o600)
    join(home, package, now)
    home.tls_key.chmod(mode)
    with pytest.raises(CertificateError, match="chmod 600"):
        home.tls_context()
    Files(coordinator).authority_key.chmod(mode)
    with pytest.raises(CertificateError, match="chmod 600"):
        load_authority(Files(coordinator), None)


def _flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def test_no_random_damage_causes_anything_but_a_refusal(
    give_invitation: Give, make_member: Callable[..., Home], admit_bank: Give, now: datetime
) -> None:
    """Neither from outside nor in a part that was signed although it is damaged."""
    rng, home = random.Random(7), make_member()
    signing, node = home.load_signing_key(), home.load_node_key()
    invitation = SigningKey.derived("i")
    authority = x509.load_pem_x509_certificate(home.authority.read_bytes())
    request = JoinRequest.read(home.request.read_bytes())
    wanted = x509.load_pem_x509_csr(request.certificate_request.encode()).public_bytes(serialization.Encoding.DER)
    der = authority.public_bytes(serialization.Encoding.DER)
    files = (
        (give_invitation("bank-b"), Invitation.read),
        (home.request.read_bytes(), JoinRequest.read),
        (admit_bank(home), lambda content: JoinPackage.read(content, home.coordinator_key)),
    )
    refused = 0
    for _ in range(60):
        for content, read in files:
            with contextlib.suppress(FedBankError):
                read(_flip(content, rng))
                refused -= 1
            refused += 1
        damaged = replace(
            request,
            certificate_request=_pem("CERTIFICATE REQUEST", _flip(wanted, rng)),
            invitation=invitation.public,
        )
        with contextlib.suppress(DocumentError):
            JoinRequest.read(damaged.write(invitation, signing, node))
        with contextlib.suppress(CertificateError):
            broken = parse_certificate(_pem("CERTIFICATE", _flip(der, rng)).encode(), "a mail")
            check_certificate(broken, "x", authority=broken, usage=CLIENT_AUTH, name="bank-a", now=now)
        with contextlib.suppress(CertificateError):
            broken = parse_certificate(_pem("CERTIFICATE", _flip(der, rng)).encode(), "a mail")
            check_certificate(authority, "x", authority=broken, usage=CLIENT_AUTH, name="bank-a", now=now)
    assert refused >= 175


def _pem(label: str, der: bytes) -> str:
    return f"-----BEGIN {label}-----\n{base64.b64encode(der).decode()}\n-----END {label}-----\n"
