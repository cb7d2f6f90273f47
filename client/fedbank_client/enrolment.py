"""How a bank becomes a member, and how it leaves. Its keys are made here and never leave the folder."""

from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedbank.certificates import (
    CLIENT_AUTH,
    CertificateError,
    check_certificate,
    fingerprint,
    has_key,
    load_key,
    new_key,
    parse_certificate,
    save_key,
    to_pem,
)
from fedbank.durable import sync_folder, write_atomic
from fedbank.errors import RunError
from fedbank.evidence.log import EVIDENCE, EvidenceLog
from fedbank.evidence.origin import origin
from fedbank.membership.documents import Invitation, JoinPackage, LeaveNotice
from fedbank.membership.folders import locked, new_folder, utc
from fedbank.membership.request import JoinRequest, node_key_line
from fedbank.membership.signed import DocumentError
from fedbank.sealing.keys import PublicKey, SigningKey
from fedbank.sealing.roster import read_roster
from fedbank_client.home import TRAINING, Home, write_home
from fedbank_client.policy import TEMPLATE
from fedbank_client.release_home import ReleaseHome

CONTINUED = "continued-by"
"""In the folder of an earlier membership: the name of the folder in which its ledger goes on."""


def enrol(
    folder: Path, bank: str, invitation: Invitation, now: datetime, *, earlier: Home | None = None
) -> tuple[Home, JoinRequest]:
    """Make the bank's ``folder`` with new keys, a careful policy and the request to send to the coordinator.

    The invitation's secret is used and not kept. A bank that comes back gives the folder of its ``earlier`` membership:
    its ledger goes on in the new one, since what its customers have spent is not forgotten, and its policy holds.

    Raises:
        DocumentError: the invitation is for another bank, has expired or names no usable authority.
        RunError: ``folder`` exists, or ``earlier`` is of another bank, still a member, or was continued before.
    """
    if invitation.bank != bank:
        raise DocumentError(f"Expected an invitation for {bank}, got one for {invitation.bank}. Ask for your own.")
    if now > invitation.expires:
        raise DocumentError(
            f"Expected a valid invitation, got one that expired {utc(invitation.expires)}. Ask for another."
        )
    authority = parse_certificate(invitation.authority.encode(), "the invitation")
    check_certificate(authority, "the invitation's authority", authority=authority, usage=None, name=None, now=now)
    if earlier is not None and (earlier.bank != bank or earlier.joined):
        raise RunError(
            f"Expected an earlier folder of {bank} that has left, got {earlier.folder} of {earlier.bank}. Stop it and "
            f"run: fedbank client leave --dir {earlier.folder}"
        )
    home = Home(folder, bank, invitation.consortium, invitation.addresses, invitation.coordinator_key)
    with new_folder(folder) as building:
        request = _make_keys(Home(building, *_pinned(home)), invitation)
        policy = TEMPLATE.encode() if earlier is None else earlier.policy.read_bytes()
        write_atomic(building / home.policy.name, policy)
        if earlier is not None:
            _hand_over(earlier, folder)
            _copy_files(earlier.folder / TRAINING, building / TRAINING)
        write_atomic(building / home.authority.name, to_pem(authority))
        write_home(home, building)
    return home, request


def join(home: Home, content: bytes, now: datetime) -> None:
    """Store the join package in ``content``; the same one again changes nothing.

    Raises:
        DocumentError: it is not by the invitation's coordinator, or for another bank, consortium or authority.
        CertificateError: its certificate is not valid, or not for this bank's key.
        RunError: the bank has left.
    """
    home.check_here()
    package = JoinPackage.read(content, home.coordinator_key)
    if (package.bank, package.consortium) != (home.bank, home.consortium):
        raise DocumentError(
            f"Expected a join package for {home.bank} in {home.consortium}, got one for {package.bank} in "
            f"{package.consortium}. Ask for your own."
        )
    if package.authority.encode() != home.authority.read_bytes():
        raise DocumentError("Expected the authority that the invitation named, got another. Ask the coordinator why.")
    certificate = parse_certificate(package.certificate.encode(), "the join package")
    _check_certificate(home, certificate, now)
    roster = read_roster(package.roster, home.coordinator_key)
    if home.roster.exists() and home.read_roster().sequence > roster.sequence:
        roster = home.read_roster()
    member = roster.active().get(home.bank)
    own = home.load_signing_key().public, node_key_line(home.load_node_key().public_key()), fingerprint(certificate)
    if member is None or (member.signing_key, member.node_key, member.certificate_sha256) != own:
        raise DocumentError(
            f"Expected a package that makes {home.bank} a member with its own keys, got one that does not, or no "
            "longer. Ask the coordinator for another."
        )
    if not home.roster.exists() or home.read_roster().sequence < roster.sequence:
        home.store_roster(package.roster)
    with locked(home.folder):
        if home.joined and home.certificate.read_bytes() == to_pem(certificate):
            return
        if package.release_root and not ReleaseHome(home).root.exists():
            ReleaseHome(home).pin(package.release_root)
        _note(home, "joined", fingerprint(certificate), f"roster {roster.sequence} of {home.consortium}")
        write_atomic(home.certificate, to_pem(certificate))
        write_atomic(home.terms_file, package.terms.dumps().encode() + b"\n")


def leave(home: Home, now: datetime) -> Path:
    """End the membership from the bank's side; the signed notice to send to the coordinator.

    TLS and node key and the certificate are removed: this bank cannot connect any more. The ledger, the evidence, the
    policy and the signing key (whose signatures the evidence holds) stay.
    """
    path = home.notice
    with locked(home.folder):
        if not path.exists():
            notice = LeaveNotice(home.consortium, home.bank, now)
            _note(home, "left", home.bank, f"the consortium {home.consortium}")
            write_atomic(path, notice.write(home.load_signing_key()))
        for gone in (home.tls_key, home.node_key, home.certificate):
            gone.unlink(missing_ok=True)
        sync_folder(home.tls_key.parent)
    return path


def _note(home: Home, action: str, about: str, result: str) -> None:
    """Into the bank's own evidence, before it is done."""
    key = home.load_signing_key()
    with EvidenceLog(home.folder / EVIDENCE, origin(home.consortium, home.bank), key) as evidence:
        evidence.append(action, about, result, home.bank)


def _pinned(home: Home) -> tuple[str, str, tuple[str, ...], PublicKey]:
    return home.bank, home.consortium, home.addresses, home.coordinator_key


def _hand_over(earlier: Home, folder: Path) -> None:
    """One ledger goes on in one folder: two that go on with it would spend the same budget twice."""
    marker = earlier.folder / CONTINUED
    try:
        with marker.open("x") as file:
            file.write(f"{folder.name}\n")
    except FileExistsError:
        raise RunError(
            f"Expected a ledger that no folder continues yet, got that of {earlier.folder}, which "
            f"{marker.read_text('utf-8').strip()!r} continues. Continue that folder instead. If it never came to be, "
            f"delete {marker}."
        ) from None


def _copy_files(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        if path.is_file() and not path.is_symlink():
            write_atomic(target / path.relative_to(source), path.read_bytes(), mode=0o600)


def _make_keys(home: Home, invitation: Invitation) -> JoinRequest:
    signing, node, tls = SigningKey.generate(), ec.generate_private_key(ec.SECP384R1()), new_key()
    home.signing_key.parent.mkdir(mode=0o700)
    signing.save(home.signing_key)
    save_key(home.tls_key, tls)
    pem = node.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    write_atomic(home.node_key, pem, mode=0o600)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, home.bank)])
    wanted = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(tls, hashes.SHA256())
    request = JoinRequest(
        home.consortium,
        home.bank,
        invitation.key.public,
        signing.public,
        node_key_line(node.public_key()),
        wanted.public_bytes(serialization.Encoding.PEM).decode(),
    )
    write_atomic(home.request, request.write(invitation.key, signing, node))
    return request


def _check_certificate(home: Home, certificate: x509.Certificate, now: datetime) -> None:
    authority = parse_certificate(home.authority.read_bytes(), str(home.authority))
    where = "the join package's certificate"
    check_certificate(certificate, where, authority=authority, usage=CLIENT_AUTH, name=home.bank, now=now)
    if not has_key(certificate, load_key(home.tls_key)):
        raise CertificateError(
            f"Expected {where} to be for the key in {home.tls_key}, got one for another key. Ask the coordinator for "
            "the package that answers this folder's request.json."
        )
