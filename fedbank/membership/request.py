"""The join request: the public halves of a bank's new keys, each with a proof (docs/formats/invitation.md)."""

from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedbank.membership.fields import hex_bytes, matching, public_key, text_of
from fedbank.membership.names import BANK, NAME
from fedbank.membership.signed import DocumentError, open_document, to_sign, write_document
from fedbank.sealing.keys import PublicKey, SignatureError, SigningKey

REQUEST = "fedbank-join-request/1"
_POSSESSION = f"{REQUEST} possession"


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
        body = open_document(content, REQUEST, lambda body: public_key(body, "signing_key"))
        request = cls(
            matching(body, "consortium", NAME),
            matching(body, "bank", BANK),
            public_key(body, "invitation"),
            public_key(body, "signing_key"),
            text_of(body, "node_key"),
            text_of(body, "certificate_request"),
        )
        claim = to_sign(_POSSESSION, request._body())
        try:
            request.invitation.verify(hex_bytes(body, "invitation_proof", 64), claim)
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


def node_key_line(key: ec.EllipticCurvePublicKey) -> str:
    """An OpenSSH public key line without a comment."""
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def _node_key(line: str) -> ec.EllipticCurvePublicKey:
    """``ValueError`` for anything but a P-384 key in exactly the form of ``node_key_line``."""
    try:
        key = serialization.load_ssh_public_key(line.encode())
    except (UnsupportedAlgorithm, NotImplementedError):  # the last: a compressed point
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
