"""Who is not let in, and whom a bank does not follow: right files in wrong hands, too late, or for somebody else."""

import json
import multiprocessing
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hostile_keys import HOSTILE_KEYS, new_node_key

from fedbank.certificates import (
    CLIENT_AUTH,
    CertificateError,
    fingerprint,
    new_key,
    save_key,
    to_pem,
)
from fedbank.errors import FedBankError, RunError
from fedbank.membership.documents import Invitation, JoinPackage
from fedbank.membership.request import JoinRequest, node_key_line
from fedbank.membership.signed import DocumentError, write_document
from fedbank.sealing.keys import SigningKey
from fedbank.sealing.roster import Member, Roster, sign_roster
from fedbank_client.enrolment import enrol, join
from fedbank_client.home import Home
from fedbank_server.authority import create_consortium, load_authority
from fedbank_server.consortium import Files, read_consortium
from fedbank_server.members import active_members, admit, revoke

Give = Callable[..., bytes]


@pytest.mark.parametrize(
    ("bank", "after", "words"),
    [
        ("bank-b", timedelta(0), "Expected an invitation for bank-b, got one for bank-a"),
        ("bank-a", timedelta(hours=25), "expired"),
    ],
)
def test_a_bank_refuses_an_invitation_that_is_not_for_it_now(
    tmp_path: Path, give_invitation: Give, now: datetime, bank: str, after: timedelta, words: str
) -> None:
    invitation = Invitation.read(give_invitation("bank-a"))
    with pytest.raises(DocumentError, match=words):
        enrol(tmp_path / bank, bank, invitation, now + after)
    assert not (tmp_path / bank).exists()


def test_an_invitation_admits_once(
    coordinator: Path, give_invitation: Give, tmp_path: Path, now: datetime, admit_bank: Give
) -> None:
    """A second request on it is refused, also once the first bank was revoked."""
    invitation = Invitation.read(give_invitation())
    first, second = (enrol(tmp_path / name, "bank-a", invitation, now)[0] for name in ("first", "second"))
    admit_bank(first)
    with pytest.raises(DocumentError, match="used already"):
        admit_bank(second)
    revoke(coordinator, "bank-a", now, reason="")
    for home in (first, second):
        with pytest.raises(DocumentError, match="withdrawn"):
            admit_bank(home)
    assert active_members(coordinator).active() == {}


def test_an_expired_invitation_admits_nobody(
    enrol_bank: Callable[..., Home], admit_bank: Give, now: datetime, coordinator: Path
) -> None:
    home = enrol_bank()
    with pytest.raises(DocumentError, match="expired"):
        admit_bank(home, at=now + timedelta(hours=25))
    assert active_members(coordinator).sequence == 1


def test_a_member_is_not_admitted_again_by_another_invitation(
    enrol_bank: Callable[..., Home], admit_bank: Give, tmp_path: Path
) -> None:
    first, second = enrol_bank(), enrol_bank(folder=tmp_path / "again")
    admit_bank(first)
    with pytest.raises(RunError, match="is one, with other keys"):
        admit_bank(second)
    with pytest.raises(RunError, match="Expected a bank that is no member yet"):
        enrol_bank(folder=tmp_path / "third")


def _csr(name: str, key: ec.EllipticCurvePrivateKey) -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("nothing wrong", ""),
        ("another invitation's key", "another"),
        ("invitation of another bank", "whom the invitation was for"),
        ("another consortium", "Expected a request to join"),
        ("invitation not proven", "prove that it has the invitation"),
        ("node key of another", "prove that it has its node key"),
        ("node key of another kind", "prove that it has its node key"),
        ("node key with a comment", "prove that it has its node key"),
        ("node key compressed", "prove that it has its node key"),
        ("node key of no known kind", "prove that it has its node key"),
        ("node proof no hex", "prove that it has its node key"),
        ("certificate for another bank", "Expected a certificate request for bank-a"),
        ("certificate key of another curve", "TLS key"),
        ("certificate request of another key", "TLS key"),
        ("no certificate request", "TLS key"),
        ("signing key of a member", "a key that bank-m had before"),
        ("node key of a member", "a key that bank-m had before"),
    ],
)
def test_a_request_is_admitted_only_with_every_proof(
    coordinator: Path, give_invitation: Give, make_member: Callable[..., Home], now: datetime, case: str, words: str
) -> None:
    """One table row per thing that somebody with an invitation, or without one, could try."""
    member = make_member("bank-m")
    bank = "bank-b" if case == "invitation of another bank" else "bank-a"
    invitation = Invitation.read(give_invitation(bank)).key
    if case == "another invitation's key":
        invitation = SigningKey.derived("made up")
    signing, node, tls = SigningKey.derived("a"), new_node_key(), new_key()
    if case == "signing key of a member":
        signing = member.load_signing_key()
    if case == "node key of a member":
        node = member.load_node_key()
    line = node_key_line((new_node_key() if case == "node key of another" else node).public_key())
    if case == "node key of another kind":
        node = ec.generate_private_key(ec.SECP256R1())
        line = node_key_line(node.public_key())
    if case == "node key with a comment":
        line += " me"
    if case in ("node key compressed", "node key of no known kind"):
        line = HOSTILE_KEYS[case.removeprefix("node key ")](line)
    wanted = _csr("bank-b" if case == "certificate for another bank" else "bank-a", tls)
    if case == "certificate key of another curve":
        wanted = _csr("bank-a", new_node_key())
    if case == "certificate request of another key":
        der = bytearray(x509.load_pem_x509_csr(wanted.encode()).public_bytes(serialization.Encoding.DER))
        der[-1] ^= 1  # in the signature
        wanted = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM).decode()
    if case == "no certificate request":
        wanted = "none"
    name = "Another" if case == "another consortium" else "Test Consortium"
    request = JoinRequest(name, "bank-a", invitation.public, signing.public, line, wanted)
    content = request.write(invitation, signing, node)
    if case == "invitation not proven":
        content = request.write(SigningKey.derived("thief"), signing, node)
    if case == "node proof no hex":
        body = json.loads(content)["body"] | {"node_proof": "zz"}
        content = write_document("fedbank-join-request/1", body, signing)
    before = Files(coordinator).roster.read_bytes()

    def ask() -> JoinRequest:
        return admit(coordinator, content, lambda: load_authority(Files(coordinator), None), now)[0]

    if not words:
        assert ask() == request
        return
    with pytest.raises(FedBankError, match=words):
        ask()
    assert Files(coordinator).roster.read_bytes() == before


def _package(home: Home, coordinator: Path, **change: Any) -> bytes:
    """A package as the coordinator would sign it, with something else in it."""
    files = Files(coordinator)
    authority = load_authority(files, None)
    key = change.get("tls") or json.loads(home.request.read_bytes())["body"]["certificate_request"]
    public = x509.load_pem_x509_csr(key.encode()).public_key() if isinstance(key, str) else key.public_key()
    certificate = (change.get("issuer") or authority).issue(
        change.get("name", home.bank),
        public,
        change.get("usage", CLIENT_AUTH),
        change.get("at", datetime.now(UTC)),
        days=change.get("days", 365),
    )
    coordinator_key = SigningKey.load(files.coordinator_key)
    member = Member(
        home.bank,
        change.get("signing", home.load_signing_key()).public,
        node_key_line(change.get("node", home.load_node_key()).public_key()),
        change.get("sha", fingerprint(certificate)),
        "2026-01-01T00:00:00+00:00",
        change.get("revoked"),
    )
    roster = Roster(change.get("of", "Test Consortium"), 9, coordinator_key.public, {home.bank: member})
    return JoinPackage(
        change.get("consortium", "Test Consortium"),
        change.get("bank", home.bank),
        to_pem(certificate).decode(),
        to_pem((change.get("issuer") or authority).certificate).decode()
        if change.get("other_authority")
        else to_pem(authority.certificate).decode(),
        change.get("roster") or sign_roster(roster, coordinator_key),
        read_consortium(coordinator).terms,
    ).write(change.get("signer", coordinator_key))


def _other_authority(tmp_path: Path) -> Any:
    create_consortium(tmp_path / "x", "X", datetime.now(UTC), hosts=("localhost",), port=1, passphrase=None)
    return load_authority(Files(tmp_path / "x"), None)


_STRANGER = SigningKey.derived("stranger")
PACKAGES: dict[str, tuple[Callable[[Path], dict[str, Any]], str]] = {
    "nothing wrong": (lambda _: {}, ""),
    "another coordinator": (lambda _: {"signer": _STRANGER}, "signature"),
    "for another bank": (lambda _: {"bank": "bank-z"}, "Expected a join package for bank-a"),
    "another consortium": (lambda _: {"consortium": "Other"}, "in Test Consortium"),
    "another authority": (
        lambda t: {"issuer": _other_authority(t), "other_authority": True},
        "authority that the invitation named",
    ),
    "certificate of another authority": (lambda t: {"issuer": _other_authority(t)}, "another issuer"),
    "certificate in another name": (lambda _: {"name": "bank-z"}, "Expected .* to be for bank-a, got one for bank-z"),
    "certificate for another key": (lambda _: {"tls": new_key()}, "another key"),
    "certificate for a server": (lambda _: {"usage": x509.oid.ExtendedKeyUsageOID.SERVER_AUTH}, "to be for a bank"),
    "certificate expired": (lambda _: {"at": datetime.now(UTC) - timedelta(days=9), "days": 1}, "expired"),
    "certificate of tomorrow": (lambda _: {"at": datetime.now(UTC) + timedelta(days=1)}, "valid only from"),
    "roster with another signing key": (lambda _: {"signing": _STRANGER}, "own keys"),
    "roster with another node key": (lambda _: {"node": new_node_key()}, "own keys"),
    "roster with another certificate": (lambda _: {"sha": "ab" * 32}, "own keys"),
    "roster in which it is revoked": (lambda _: {"revoked": "2026-01-01T00:00:00+00:00"}, "own keys"),
    "roster of somebody else": (
        lambda _: {"roster": sign_roster(Roster("Test Consortium", 9, _STRANGER.public, {}), _STRANGER)},
        "signature",
    ),
    "roster of another consortium": (lambda _: {"of": "Other"}, "Expected the roster of Test Consortium"),
    "no roster": (lambda _: {"roster": b"none"}, "envelope"),
}


@pytest.mark.parametrize("case", PACKAGES)
def test_a_package_is_taken_only_if_everything_in_it_is_this_banks(
    enrol_bank: Callable[..., Home], coordinator: Path, now: datetime, tmp_path: Path, case: str
) -> None:
    home = enrol_bank()
    make, words = PACKAGES[case]
    package = _package(home, coordinator, **make(tmp_path))
    if not words:
        join(home, package, now)
        join(home, package, now)
        assert home.joined
        return
    with pytest.raises(FedBankError, match=words):
        join(home, package, now)
    assert not home.joined and not home.certificate.exists() and not home.roster.exists()


def test_a_package_that_is_no_longer_true_is_refused(
    make_member: Callable[..., Home], admit_bank: Give, coordinator: Path, now: datetime
) -> None:
    home = make_member()
    old = admit_bank(home)
    revoke(coordinator, "bank-a", now, reason="")
    home.store_roster(Files(coordinator).roster.read_bytes())
    with pytest.raises(DocumentError, match="no longer"):
        join(home, old, now)


def test_swapped_keys_are_noticed(make_member: Callable[..., Home], now: datetime, admit_bank: Give) -> None:
    """The files of two banks, or of two purposes, exchanged."""
    home, other = make_member("bank-a"), make_member("bank-b")
    package = admit_bank(home)
    for name in ("signing_key", "node_key", "tls_key"):
        path: Path = getattr(home, name)
        kept = path.read_bytes()
        path.write_bytes(getattr(other, name).read_bytes())
        with pytest.raises(FedBankError, match=r"another key|own keys"):
            join(home, package, now)
        path.write_bytes(kept)
    home.node_key.write_bytes(home.tls_key.read_bytes())
    with pytest.raises(CertificateError, match="P-384"):
        home.load_node_key()
    save_key(home.tls_key, new_key())
    with pytest.raises(CertificateError, match="belong together"):
        home.tls_context()
    save_key(home.tls_key, new_key(), b"a passphrase")
    with pytest.raises(CertificateError, match=r"passphrase|belong together"):
        home.tls_context()


def _admit_in_process(coordinator: Path, request: Path, go: Any, results: Any) -> None:
    go.wait()
    try:
        admit(coordinator, request.read_bytes(), lambda: load_authority(Files(coordinator), None), datetime.now(UTC))
        results.put("admitted")
    except FedBankError as error:
        results.put(str(error))


def test_two_processes_admit_one_of_two_requests_on_one_invitation(
    coordinator: Path, give_invitation: Give, tmp_path: Path, now: datetime
) -> None:
    spawn = multiprocessing.get_context("fork")
    for trial in range(5):
        bank = f"bank-{trial}"
        invitation = Invitation.read(give_invitation(bank))
        homes = [enrol(tmp_path / f"{bank}-{number}", bank, invitation, now)[0] for number in range(2)]
        go, results = spawn.Event(), spawn.Queue()
        workers = [
            spawn.Process(target=_admit_in_process, args=(coordinator, home.request, go, results)) for home in homes
        ]
        for worker in workers:
            worker.start()
        go.set()
        said = sorted(results.get(timeout=30) for _ in workers)
        for worker in workers:
            worker.join(30)
        assert said[1] == "admitted" and "used already" in said[0]
    assert active_members(coordinator).sequence == 1 + 5
    assert len(active_members(coordinator).active()) == 5
