"""Who is a member: admission, revocation, and the roster that every listener asks.

Every change is made under the folder's lock, in an order in which a crash leaves a state that the same command, given
again, completes: certificate, roster (from here on the bank is a member), invitation used, package.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from fedbank.certificates import CLIENT_AUTH, Authority, CertificateError, fingerprint, read_certificate, to_pem
from fedbank.durable import write_atomic
from fedbank.errors import RunError
from fedbank.membership.documents import JoinPackage, LeaveNotice
from fedbank.membership.folders import locked, utc
from fedbank.membership.request import JoinRequest
from fedbank.membership.signed import DocumentError
from fedbank.sealing.keys import SigningKey
from fedbank.sealing.roster import Member, Roster, read_roster, sign_roster
from fedbank_server.consortium import Consortium, Files, note, read_consortium
from fedbank_server.invitations import check_invitation, mark_used, withdraw
from fedbank_server.release_files import ReleaseFiles

_MEMBER_DAYS = 365
_cached: dict[Path, tuple[tuple[int, int, int], Roster]] = {}


def admit(folder: Path, content: bytes, authority: Callable[[], Authority], now: datetime) -> tuple[JoinRequest, bytes]:
    """Make the bank of the request in ``content`` a member; the request, and the join package to send back.

    The same request again, after a crash or a lost package, gives a package for the same certificate. ``authority`` is
    asked for once everything else is in order.

    Raises:
        DocumentError: the request or its invitation is not in order; nothing was changed.
        RunError: the bank is a member already, or one of its keys was used before.
    """
    files, consortium = Files(folder), read_consortium(folder)
    request = JoinRequest.read(content)
    if request.consortium != consortium.name:
        raise DocumentError(
            f"Expected a request to join {consortium.name}, got one for {request.consortium}. Ask the bank for another."
        )
    digest = hashlib.sha256(content.strip()).hexdigest()
    with locked(folder):
        check_invitation(files, request.invitation, request.bank, digest, now)
        coordinator = SigningKey.load(files.coordinator_key)
        roster = _read(files)
        if not _is_admitted(files, roster, request):
            _refuse_known(roster, request)
            certificate = authority().issue(request.bank, request.tls_key(), CLIENT_AUTH, now, days=_MEMBER_DAYS)
            _issue(files, consortium, request.bank, certificate, coordinator)
            member = Member(
                request.bank, request.signing_key, request.node_key, fingerprint(certificate), utc(now), None
            )
            roster = _store(files, roster, member, coordinator)
        mark_used(files, request.invitation, digest)
        return request, _package(files, consortium, request.bank, roster, coordinator)


def renew(folder: Path, bank: str, authority: Callable[[], Authority], now: datetime) -> bytes:
    """A new certificate for the same key of a member, before or after the old one expires; the join package to send.

    From now on only the new certificate is the member's: the bank is out until it joins with the package.

    Raises:
        RunError: no active member.
    """
    files, consortium = Files(folder), read_consortium(folder)
    with locked(folder):
        roster = _read(files)
        member = roster.active().get(bank)
        if member is None:
            raise _no_member(roster, bank)
        coordinator = SigningKey.load(files.coordinator_key)
        key = read_certificate(files.certificate_of(bank)).public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise CertificateError(f"Expected a P-256 key in {files.certificate_of(bank)}, got another kind.")
        certificate = authority().issue(bank, key, CLIENT_AUTH, now, days=_MEMBER_DAYS)
        _issue(files, consortium, bank, certificate, coordinator)
        roster = _store(files, roster, replace(member, certificate_sha256=fingerprint(certificate)), coordinator)
        return _package(files, consortium, bank, roster, coordinator)


def revoke(folder: Path, bank: str, now: datetime, *, reason: str) -> Member:
    """End the membership of ``bank``, for every connection from now on; its open invitations are withdrawn.

    Raises:
        RunError: no such member.
    """
    files = Files(folder)
    with locked(folder):
        roster = _read(files)
        member = roster.members.get(bank)
        if member is None:
            raise _no_member(roster, bank)
        withdraw(files, bank, now)
        if member.revoked is not None:
            return member
        coordinator = SigningKey.load(files.coordinator_key)
        note(files, roster.consortium, coordinator, "member-revoked", bank, reason or "no reason given")
        ended = replace(member, revoked=utc(now))
        _store(files, roster, ended, coordinator)
        return ended


def accept_notice(folder: Path, content: bytes, bank: str, now: datetime) -> Member:
    """End the membership of ``bank`` by its own signed leave notice.

    Raises:
        DocumentError: the notice is not signed by this member, or is about something else.
        RunError: no such member.
    """
    roster = active_members(folder)
    member = roster.members.get(bank)
    if member is None:
        raise _no_member(roster, bank)
    notice = LeaveNotice.read(content, member.signing_key)
    if (notice.bank, notice.consortium) != (bank, roster.consortium):
        raise DocumentError(
            f"Expected the notice of {bank} to leave {roster.consortium}, got that of {notice.bank} to leave "
            f"{notice.consortium}. Nothing was changed."
        )
    return revoke(folder, bank, now, reason=f"left by its own notice of {utc(notice.left)}")


def active_members(folder: Path) -> Roster:
    """The roster as it is on disk now, verified; its ``active()`` are the members. Read again only when it changed.

    Cheap enough for every request: one stat(2). A roster older than one that this process has seen is refused.

    Raises:
        UpdateError: the roster is damaged, forged or older. Let nobody in.
    """
    files = Files(folder)
    about = files.roster.stat()
    version = about.st_mtime_ns, about.st_size, about.st_ino
    known = _cached.get(folder)
    if known is not None and known[0] == version:
        return known[1]
    roster = _read(files, 0 if known is None else known[1].sequence)
    _cached[folder] = version, roster
    return roster


def member_of(folder: Path, certificate: bytes) -> Member | None:
    """The active member whose TLS certificate (DER) this is; ``None`` for everybody else, the revoked included."""
    presented = hashlib.sha256(certificate).hexdigest()
    for member in active_members(folder).active().values():
        if member.certificate_sha256 == presented:
            return member
    return None


def _package(files: Files, consortium: Consortium, bank: str, roster: Roster, coordinator: SigningKey) -> bytes:
    package = JoinPackage(
        consortium.name,
        bank,
        to_pem(read_certificate(files.certificate_of(bank))).decode(),
        to_pem(read_certificate(files.authority)).decode(),
        sign_roster(roster, coordinator),
        consortium.terms,
        ReleaseFiles(files.folder).repository.first_root() or b"",
    )
    return package.write(coordinator)


def _no_member(roster: Roster, bank: str) -> RunError:
    known = ", ".join(roster.active()) or "none yet"
    return RunError(f"Expected a member ({known:.300}), got {bank!r:.80}. See fedbank server members.")


def _is_admitted(files: Files, roster: Roster, request: JoinRequest) -> bool:
    """Whether an earlier call came as far as the roster, for this very request."""
    member = roster.active().get(request.bank)
    if member is None or (member.signing_key, member.node_key) != (request.signing_key, request.node_key):
        return False
    try:
        certificate = read_certificate(files.certificate_of(request.bank))
    except CertificateError:
        return False
    return fingerprint(certificate) == member.certificate_sha256 and certificate.public_key() == request.tls_key()


def _refuse_known(roster: Roster, request: JoinRequest) -> None:
    if request.bank in roster.active():
        raise RunError(
            f"Expected a bank that is no member, got {request.bank}, which is one, with other keys. First run: fedbank "
            f"server revoke {request.bank}"
        )
    for member in roster.members.values():
        if member.signing_key == request.signing_key or member.node_key == request.node_key:
            raise RunError(
                f"Expected new keys, got a key that {member.bank} had before. Ask the bank to run fedbank client init "
                "again."
            )


def _issue(
    files: Files, consortium: Consortium, bank: str, certificate: x509.Certificate, coordinator: SigningKey
) -> None:
    ends = utc(certificate.not_valid_after_utc)
    about = f"for {bank}, serial {certificate.serial_number:x}, until {ends}"
    note(files, consortium.name, coordinator, "certificate-issued", fingerprint(certificate), about)
    write_atomic(files.certificate_of(bank), to_pem(certificate))


def _store(files: Files, roster: Roster, member: Member, key: SigningKey) -> Roster:
    """The next roster, with ``member`` as it is now."""
    members = {**roster.members, member.bank: member}
    after = Roster(roster.consortium, roster.sequence + 1, roster.coordinator_key, members)
    write_atomic(files.roster, sign_roster(after, key))
    return after


def _read(files: Files, minimum_sequence: int = 0) -> Roster:
    return read_roster(files.roster.read_bytes(), files.public_key(), minimum_sequence)


def expiry_of(files: Files, bank: str) -> datetime | None:
    """When the certificate that ``bank`` was given last expires; ``None`` if its copy here is gone."""
    try:
        return read_certificate(files.certificate_of(bank)).not_valid_after_utc.astimezone(UTC)
    except CertificateError:
        return None
