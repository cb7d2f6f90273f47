"""A consortium's keys for tests: a CA, the coordinator's certificate, a certificate and a node key for every bank.

Keys are made anew for every test run and guard nothing.
"""

import datetime
import hashlib
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Paths:
    """PEM files of one party; ``node_key`` is an OpenSSH private key, of banks only."""

    certificate: Path
    key: Path
    node_key: Path

    @property
    def sha256(self) -> str:
        certificate = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()

    @property
    def node_public(self) -> str:
        key = serialization.load_ssh_private_key(self.node_key.read_bytes(), None)
        return (
            key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
        )


class Authority:
    """A CA in ``folder``; ``ca`` is its certificate's file."""

    def __init__(self, folder: Path, name: str = "Test CA") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.ca = folder, folder / "ca.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(self._name, self._key.public_key(), (-_DAY, 30 * _DAY)).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self.ca.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def server(self) -> Paths:
        """The coordinator's, for 127.0.0.1."""
        names = x509.SubjectAlternativeName(
            [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
        )
        return self._issue("server", ExtendedKeyUsageOID.SERVER_AUTH, (-_DAY, 30 * _DAY), names)

    def bank(self, name: str, valid: tuple[datetime.timedelta, datetime.timedelta] = (-_DAY, 30 * _DAY)) -> Paths:
        """A bank's certificate and node key; ``valid`` is from when to when, counted from now."""
        paths = self._issue(name, ExtendedKeyUsageOID.CLIENT_AUTH, valid, None)
        node_key(paths.node_key)
        return paths

    def _issue(
        self,
        name: str,
        usage: x509.ObjectIdentifier,
        valid: tuple[datetime.timedelta, datetime.timedelta],
        names: x509.SubjectAlternativeName | None,
    ) -> Paths:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(subject, key.public_key(), valid)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        paths = Paths(*(self.folder / f"{name}.{ending}" for ending in ("pem", "key.pem", "node")))
        paths.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        _write_private(
            paths.key,
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )
        return paths

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, valid: tuple[datetime.timedelta, datetime.timedelta]
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + valid[0])
            .not_valid_after(now + valid[1])
        )


def node_key(path: Path) -> None:
    """A new P-384 key in OpenSSH's format."""
    key = ec.generate_private_key(ec.SECP384R1())
    _write_private(
        path,
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        ),
    )


def _write_private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)
