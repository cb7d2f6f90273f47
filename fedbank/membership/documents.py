"""Invitation, join request, join package and leave notice (docs/formats/invitation.md, docs/formats/join-package.md).

Each is a signed document. Reading one checks its form and signature; whether it is welcome is for whoever reads it.
"""

import base64
import binascii
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from fedbank.errors import ConfigError
from fedbank.membership.signed import DocumentError, open_document, text_of, to_sign, write_document
from fedbank.membership.terms import ADDRESS, BANK, NAME, Terms
from fedbank.sealing.keys import PublicKey, SignatureError, SigningKey
from fedbank.sealing.roster import COORDINATOR

INVITATION, REQUEST = "fedbank-invitation/1", "fedbank-join-request/1"
PACKAGE, LEAVE = "fedbank-join-package/1", "fedbank-leave-notice/1"
_POSSESSION = "fedbank-join-request/1 possession"
_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Invitation:
    """One bank may join, once, until ``expires``.

    ``secret`` is the seed of an Ed25519 key: whoever has it can prove so without showing it, and the coordinator keeps
    only the public half. ``authority`` is the certificate (PEM) that everybody in the consortium trusts.
    """

    consortium: str
    bank: str
    addresses: tuple[str, ...]
    authority: str
    coordinator_key: PublicKey
    expires: datetime
    secret: bytes = field(repr=False)

    @property
    def key(self) -> SigningKey:
        """The key that proves possession of the invitation."""
        return SigningKey(Ed25519PrivateKey.from_private_bytes(self.secret))

    def write(self, coordinator: SigningKey) -> bytes:
        """The file for the bank."""
        body = {
            "consortium": self.consortium,
            "bank": self.bank,
            "addresses": list(self.addresses),
            "authority": self.authority,
            "coordinator_key": self.coordinator_key.hex(),
            "expires": self.expires.isoformat(timespec="seconds"),
            "secret": self.secret.hex(),
        }
        return write_document(INVITATION, body, coordinator)

    @classmethod
    def read(cls, content: bytes) -> "Invitation":
        """An invitation is signed by the key that it names itself: compare that key over a second channel."""
        body = open_document(content, INVITATION, lambda body: _public_key(body, "coordinator_key"))
        addresses = body.get("addresses")
        if not isinstance(addresses, list) or not 0 < len(addresses) <= 16:
            raise DocumentError("Expected addresses of the coordinator in the invitation, got none. Ask for another.")
        return cls(
            _matching(body, "consortium", NAME),
            _matching(body, "bank", BANK),
            tuple(_matching({"address": address}, "address", ADDRESS) for address in addresses),
            text_of(body, "authority"),
            _public_key(body, "coordinator_key"),
            _moment(body, "expires"),
            _hex(body, "secret", _SECRET_BYTES),
        )


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """The public halves of a bank's new keys. ``invitation``: the public half of the invitation's key, its identity.

    ``node_key``: an OpenSSH public key line, P-384; ``certificate_request``: PKCS #10 (RFC 2986), PEM.
    """

    consortium: str
    bank: str
    invitation: PublicKey
    signing_key: PublicKey
    node_key: str
    certificate_request: str

    def write(self, invitation: SigningKey, signing: SigningKey, node: ec.EllipticCurvePrivateKey) -> bytes:
        """The file for the coordinator: each key proves that the bank has it, and the signing key signs it all."""
        body = self._body()
        claim = to_sign(_POSSESSION, body)
        proofs = {
            "invitation_proof": invitation.sign(claim).hex(),
            "node_proof": node.sign(claim, ec.ECDSA(hashes.SHA384())).hex(),
        }
        return write_document(REQUEST, body | proofs, signing)

    @classmethod
    def read(cls, content: bytes) -> "JoinRequest":
        """Checks the form and every proof of possession.

        Raises:
            DocumentError: says which one fails.
        """
        body = open_document(content, REQUEST, lambda body: _public_key(body, "signing_key"))
        request = cls(
            _matching(body, "consortium", NAME),
            _matching(body, "bank", BANK),
            _public_key(body, "invitation"),
            _public_key(body, "signing_key"),
            text_of(body, "node_key"),
            text_of(body, "certificate_request"),
        )
        claim = to_sign(_POSSESSION, request._body())
        try:
            request.invitation.verify(_hex(body, "invitation_proof", 64), claim)
        except SignatureError:
            raise _unproven("the invitation", request.bank) from None
        try:
            node_key = _node_key(request.node_key)
            node_key.verify(bytes.fromhex(text_of(body, "node_proof")), claim, ec.ECDSA(hashes.SHA384()))
        except (InvalidSignature, ValueError):
            raise _unproven("its node key", request.bank) from None
        request.tls_key()
        return request

    def tls_key(self) -> ec.EllipticCurvePublicKey:
        """The P-256 key of the certificate request, whose subject must be the bank and nothing else."""
        try:
            wanted = x509.load_pem_x509_csr(self.certificate_request.encode())
            key, proven = wanted.public_key(), wanted.is_signature_valid
            subject = [(part.oid, part.value) for part in wanted.subject]
        except Exception:  # noqa: BLE001  (a decode boundary: the parser's errors are of many classes)
            raise _unproven("its TLS key", self.bank) from None
        if not proven or not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise _unproven("its TLS key (P-256)", self.bank)
        if subject != [(NameOID.COMMON_NAME, self.bank)]:
            raise DocumentError(
                f"Expected a certificate request for {self.bank}, got one for {wanted.subject.rfc4514_string()!r:.80}. "
                "Ask the bank to make its request again."
            )
        return key

    def _body(self) -> dict[str, Any]:
        return {
            "consortium": self.consortium,
            "bank": self.bank,
            "invitation": self.invitation.hex(),
            "signing_key": self.signing_key.hex(),
            "node_key": self.node_key,
            "certificate_request": self.certificate_request,
        }


@dataclass(frozen=True, slots=True)
class JoinPackage:
    """What makes a bank a member: its certificate (PEM), the signed roster, and the consortium's terms."""

    consortium: str
    bank: str
    certificate: str
    authority: str
    roster: bytes
    terms: Terms

    def write(self, coordinator: SigningKey) -> bytes:
        """The file for the bank."""
        body = {
            "consortium": self.consortium,
            "bank": self.bank,
            "certificate": self.certificate,
            "authority": self.authority,
            "roster": base64.b64encode(self.roster).decode(),
            "terms": self.terms.dumps(),
        }
        return write_document(PACKAGE, body, coordinator)

    @classmethod
    def read(cls, content: bytes, coordinator_key: PublicKey) -> "JoinPackage":
        """Checks form and signature; certificate and roster are for the bank to check against its own keys."""
        body = open_document(content, PACKAGE, lambda _: coordinator_key)
        try:
            roster = base64.b64decode(text_of(body, "roster", 1 << 18), validate=True)
            terms = Terms.loads(text_of(body, "terms").encode(), "the join package")
        except (binascii.Error, ValueError, ConfigError):
            raise DocumentError(
                "Expected a roster and terms in the join package, got others. Ask for another."
            ) from None
        return cls(
            _matching(body, "consortium", NAME),
            _matching(body, "bank", BANK),
            text_of(body, "certificate"),
            text_of(body, "authority"),
            roster,
            terms,
        )


@dataclass(frozen=True, slots=True)
class LeaveNotice:
    """A bank's word that it leaves ``consortium``."""

    consortium: str
    bank: str
    left: datetime

    def write(self, signing: SigningKey) -> bytes:
        """The file for the coordinator."""
        body = {"consortium": self.consortium, "bank": self.bank, "left": self.left.isoformat(timespec="seconds")}
        return write_document(LEAVE, body, signing)

    @classmethod
    def read(cls, content: bytes, signing_key: PublicKey) -> "LeaveNotice":
        """Checks form and signature."""
        body = open_document(content, LEAVE, lambda _: signing_key)
        return cls(_matching(body, "consortium", NAME), _matching(body, "bank", BANK), _moment(body, "left"))


def node_key_line(key: ec.EllipticCurvePublicKey) -> str:
    """An OpenSSH public key line without a comment."""
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def _node_key(line: str) -> ec.EllipticCurvePublicKey:
    """``ValueError`` for anything but a P-384 key in exactly the form of ``node_key_line``."""
    try:
        key = serialization.load_ssh_public_key(line.encode())
    except UnsupportedAlgorithm:
        raise ValueError("another kind of key") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ValueError("another kind of key")
    if node_key_line(key) != line:
        raise ValueError("a line with more than the key")
    return key


def _unproven(what: str, bank: str) -> DocumentError:
    return DocumentError(
        f"Expected {bank} to prove that it has {what}, got no such proof. Ask the bank to make its request again."
    )


def _matching(body: dict[str, Any], name: str, pattern: str) -> str:
    value = text_of(body, name)
    if not re.fullmatch(pattern, value) or (pattern == BANK and value == COORDINATOR):
        raise DocumentError(f"Expected a proper {name} in the file, got {value!r:.80}. Ask for it to be sent again.")
    return value


def _public_key(body: dict[str, Any], name: str) -> PublicKey:
    try:
        return PublicKey.from_hex(text_of(body, name))
    except SignatureError:
        raise DocumentError(f"Expected {name} in the file to be a public key, got another text.") from None


def _hex(body: dict[str, Any], name: str, length: int) -> bytes:
    """Never quoted in an error: it may be a secret."""
    value = body.get(name)
    if not isinstance(value, str) or not re.fullmatch(f"[0-9a-f]{{{2 * length}}}", value):
        raise DocumentError(f"Expected {name} in the file to be {2 * length} hex digits, got another text.")
    return bytes.fromhex(value)


def _moment(body: dict[str, Any], name: str) -> datetime:
    text = text_of(body, name)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise DocumentError(f"Expected {name} in the file to be a time with its zone, got {text!r:.60}.")
    return moment
