"""Is the coordinator's folder in order? Looks only; changes nothing."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from fedbank.certificates import SERVER_AUTH, CertificateError, check_certificate, has_key, load_key, read_certificate
from fedbank.errors import ConfigError, FedBankError
from fedbank.membership.health import FAIL, OK, Finding, attempt, disk, expiry, private, versions
from fedbank.release.health import standing
from fedbank.sealing.keys import KeyFileError, SigningKey
from fedbank_server.consortium import CONSORTIUM, Files, read_consortium
from fedbank_server.invitations import read_invitations
from fedbank_server.members import active_members, expiry_of
from fedbank_server.release_files import ReleaseFiles

_RENEW = "Run: fedbank server renew"


def examine(folder: Path, now: datetime) -> Iterator[Finding]:
    """Every finding about the coordinator's ``folder``."""
    files = Files(folder)
    yield attempt(CONSORTIUM, lambda: f"understood: {read_consortium(folder).name}")
    yield from private(files.secrets(), folder)
    yield from _certificates(files, now)
    yield attempt("coordinator.key", lambda: _coordinator(files))
    yield attempt("roster", lambda: _roster(folder))
    yield attempt("invitations", lambda: f"{len(read_invitations(files))} given")
    yield from _members(files, now)
    yield from _releases(folder, now)
    yield disk(folder)
    yield from versions("fedbank", "flwr", "cryptography")


def _certificates(files: Files, now: datetime) -> Iterator[Finding]:
    try:
        authority, server = read_certificate(files.authority), read_certificate(files.certificate)
        check_certificate(authority, str(files.authority), authority=authority, usage=None, name=None, now=now)
        yield expiry("ca.pem", authority.not_valid_after_utc, now, "Found a new consortium in time: this one ends.")
        for host in read_consortium(files.folder).hosts():
            check_certificate(
                server, str(files.certificate), authority=authority, usage=SERVER_AUTH, name=host, now=now
            )
        if not has_key(server, load_key(files.key)):
            raise CertificateError(f"Expected {files.certificate} to be for the key {files.key}, got another.")
        yield expiry("server.pem", server.not_valid_after_utc, now, _RENEW)
    except FedBankError as error:
        yield Finding(FAIL, "certificates", f"{error} {_RENEW}, or restore the folder from a backup.")


def _coordinator(files: Files) -> str:
    if SigningKey.load(files.coordinator_key).public != files.public_key():
        raise KeyFileError(
            f"Expected {files.coordinator_key} and {files.coordinator_public} to belong together, got two keys. "
            "Restore them from a backup."
        )
    return files.public_key().hex()


def _roster(folder: Path) -> str:
    roster, name = active_members(folder), read_consortium(folder).name
    if roster.consortium != name:
        raise ConfigError(
            f"Expected name in {CONSORTIUM} to be that of the roster ({roster.consortium}), got {name}. Put it back: a "
            "consortium keeps its name."
        )
    return f"signed, number {roster.sequence}, {len(roster.active())} members"


def _members(files: Files, now: datetime) -> Iterator[Finding]:
    try:
        banks = list(active_members(files.folder).active())
    except (FedBankError, OSError):
        return  # told above
    for bank in banks:
        remedy = f"Run: fedbank server renew --bank {bank} -o PACKAGE"
        ends = expiry_of(files, bank)
        if ends is None:
            yield Finding(FAIL, bank, f"Expected its certificate at {files.certificate_of(bank)}, got none. {remedy}")
        elif ends < now:
            yield Finding(FAIL, bank, f"Its certificate {files.certificate_of(bank)} expired {ends:%Y-%m-%d}. {remedy}")
        else:
            yield expiry(bank, ends, now, remedy)


def _releases(folder: Path, now: datetime) -> Iterator[Finding]:
    """The online key is here and private, and what was signed still holds."""
    files = ReleaseFiles(folder)
    try:
        trusted = files.trusted()
        if trusted.root is None:
            yield Finding(OK, "releases", "nobody signs any yet")
            return
        files.load_online()
        remedy = "The running server says so by itself: fedbank server start"
        timestamp = files.repository.metadata / "timestamp.json"
        yield from standing(trusted.root, trusted.targets, timestamp, now, remedy)
    except FedBankError as error:
        yield Finding(FAIL, "releases", str(error))
