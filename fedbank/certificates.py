"""X.509 certificates and the key files behind them, as both sides of a consortium use them (RFC 5280, TLS 1.3).

It knows one small authority, servers and banks. It refuses to know who is a member: that is the roster's to say.
"""

import ipaddress
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedbank.durable import write_atomic
from fedbank.errors import FedBankError

SERVER_AUTH, CLIENT_AUTH = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
_MAX_FILE = 64 * 1024
_SLACK = timedelta(minutes=5)
"""A certificate is valid from this long before it is issued: clocks differ."""


class CertificateError(FedBankError):
    """A certificate or its key file that cannot be used: names the file, and the date where that is why."""


@dataclass(frozen=True, slots=True)
class Authority:
    """The consortium's own certificate authority: its certificate and the key that signs all others."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, consortium: str, now: datetime, days: int = 3650) -> "Authority":
        """A self-signed authority that signs leaf certificates only (path length 0) under a new P-256 key."""
        key = new_key()
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, consortium),
                x509.NameAttribute(NameOID.COMMON_NAME, "FedBank authority"),
            ]
        )
        builder = _builder(subject, subject, key.public_key(), key.public_key(), now, days)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_key_usage(authority=True), critical=True)
        return cls(builder.sign(key, hashes.SHA256()), key)

    def issue(
        self,
        name: str,
        key: ec.EllipticCurvePublicKey,
        usage: x509.ObjectIdentifier,
        now: datetime,
        *,
        days: int,
        hosts: Iterable[str] = (),
    ) -> x509.Certificate:
        """A leaf certificate for ``name`` (its common name); ``hosts`` become DNS and IP alternative names.

        It never outlives the authority.
        """
        days = min(days, (self.certificate.not_valid_after_utc - now).days)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(self.certificate.subject, subject, key, self.key.public_key(), now, days)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(authority=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        alternatives = [_general_name(host) for host in hosts] or [x509.DNSName(name)]
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        return builder.sign(self.key, hashes.SHA256())


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new key on NIST P-256, for TLS."""
    return ec.generate_private_key(ec.SECP256R1())


def save_key(path: Path, key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> None:
    """Write ``key`` as PKCS#8 PEM, its owner's only, encrypted if there is a passphrase."""
    lock = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
    write_atomic(path, pem, mode=0o600)


def load_key(path: Path, passphrase: bytes | None = None) -> ec.EllipticCurvePrivateKey:
    """The P-256 key in ``path``.

    Raises:
        CertificateError: others may read the file, the passphrase is missing or wrong, or it holds no such key.
    """
    content = read_private(path)
    try:
        key = serialization.load_pem_private_key(content, passphrase)
    except TypeError as error:  # cryptography's way to say that a passphrase is missing, or given for nothing
        hint = "It is not encrypted: give no passphrase" if passphrase else "Give --passphrase-file or --passphrase"
        raise CertificateError(f"Expected to open the key {path}, got {error.args[0].lower()} {hint}.") from None
    except (ValueError, UnsupportedAlgorithm):
        why = "the right passphrase" if passphrase else "a whole PEM private key"
        raise CertificateError(f"Expected {why} for {path}, got another. Restore it from a backup.") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CertificateError(f"Expected a P-256 key in {path}, got another kind. Restore it from a backup.")
    return key


def read_private(path: Path) -> bytes:
    """The content of a secret file (at most 64 KiB) that nobody but its owner may read.

    Raises:
        CertificateError: it is missing, open to group or others, or too large.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise CertificateError(
                    f"Expected {path} to be its owner's only, got mode {mode:04o}. Run: chmod 600 {path}"
                )
            content = file.read(_MAX_FILE + 1)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise CertificateError(f"Expected a secret file at {path}, got none. Restore it from a backup.") from None
    if len(content) > _MAX_FILE:
        raise CertificateError(f"Expected at most {_MAX_FILE} bytes in {path}, got more. Restore it from a backup.")
    return content


def read_certificate(path: Path) -> x509.Certificate:
    """The certificate (PEM) in ``path``."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise CertificateError(f"Expected a certificate at {path}, got none. Restore it from a backup.") from None
    return parse_certificate(content, str(path))


def parse_certificate(pem: bytes, where: str) -> x509.Certificate:
    """The certificate in ``pem``, every part of it readable; errors name ``where`` it came from."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        _ = certificate.public_key(), certificate.subject, certificate.extensions, certificate.not_valid_after_utc
    except Exception:  # noqa: BLE001  (a decode boundary: the parser's errors are of many classes)
        raise CertificateError(f"Expected a certificate (PEM) in {where}, got something else.") from None
    return certificate


def to_pem(certificate: x509.Certificate) -> bytes:
    """PEM of ``certificate``."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the DER bytes, hexadecimal: what the roster says of a member's certificate."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def check_certificate(
    certificate: x509.Certificate,
    where: str,
    *,
    authority: x509.Certificate,
    usage: x509.ObjectIdentifier | None,
    name: str | None,
    now: datetime,
) -> None:
    """Check that ``authority`` issued ``certificate``, for ``usage`` and ``name``, and that it is valid ``now``.

    ``usage=None`` is for the authority's own certificate. ``name`` is a bank or a host, among the alternative names.

    Raises:
        CertificateError: names ``where`` and what is wrong with it.
    """
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begins:
        raise CertificateError(
            f"Expected {where} to be valid now ({day(now)}), got one that is valid only from {day(begins)}. Set this "
            "machine's clock."
        )
    if now > ends:
        raise CertificateError(f"Expected {where} to be valid now ({day(now)}), got one that expired {day(ends)}.")
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        raise CertificateError(
            f"Expected {where} to be issued by this consortium's authority, got another issuer."
        ) from None
    if usage is not None and usage not in _usages(certificate):
        raise CertificateError(f"Expected {where} to be for {_purpose(usage)}, got one for something else.")
    if name is not None and name not in names_of(certificate):
        got = ", ".join(names_of(certificate)) or "no name"
        raise CertificateError(f"Expected {where} to be for {name}, got one for {got:.200}.")


def names_of(certificate: x509.Certificate) -> list[str]:
    """DNS names and IP addresses that the certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress)]


def has_key(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bool:
    """Whether ``key`` is the one that ``certificate`` certifies."""
    return certificate.public_key() == key.public_key()


def _builder(
    issuer: x509.Name,
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePublicKey,
    now: datetime,
    days: int,
) -> x509.CertificateBuilder:
    now = now.astimezone(UTC)
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SLACK)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usages(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
    try:
        return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return []


def _purpose(usage: x509.ObjectIdentifier) -> str:
    return "a server" if usage == SERVER_AUTH else "a bank"


def day(moment: datetime) -> str:
    """How dates are told to people."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
