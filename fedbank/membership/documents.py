"""Invitation, join package and leave notice (docs/formats/invitation.md, docs/formats/join-package.md).

Each is a signed document. Reading one checks its form and signature; whether it is welcome is for whoever reads it.
"""

import base64
import binascii
from dataclasses import dataclass, field
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedbank.errors import ConfigError
from fedbank.membership.fields import hex_bytes, matching, moment, public_key, text_of
from fedbank.membership.names import BANK, NAME
from fedbank.membership.signed import DocumentError, open_document, write_document
from fedbank.membership.terms import ADDRESS, Terms
from fedbank.sealing.keys import PublicKey, SigningKey

INVITATION, PACKAGE, LEAVE = "fedbank-invitation/1", "fedbank-join-package/1", "fedbank-leave-notice/1"
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
        body = open_document(content, INVITATION, lambda body: public_key(body, "coordinator_key"))
        addresses = body.get("addresses")
        if not isinstance(addresses, list) or not 0 < len(addresses) <= 16:
            raise DocumentError("Expected addresses of the coordinator in the invitation, got none. Ask for another.")
        return cls(
            matching(body, "consortium", NAME),
            matching(body, "bank", BANK),
            tuple(matching({"address": address}, "address", ADDRESS) for address in addresses),
            text_of(body, "authority"),
            public_key(body, "coordinator_key"),
            moment(body, "expires"),
            hex_bytes(body, "secret", _SECRET_BYTES),
        )


@dataclass(frozen=True, slots=True)
class JoinPackage:
    """What makes a bank a member: its certificate (PEM), the signed roster, and the consortium's terms.

    ``release_root``: the members' first root, from which trust in releases follows; empty before there is one.
    """

    consortium: str
    bank: str
    certificate: str
    authority: str
    roster: bytes
    terms: Terms
    release_root: bytes = b""

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
        if self.release_root:
            body["release_root"] = base64.b64encode(self.release_root).decode()
        return write_document(PACKAGE, body, coordinator)

    @classmethod
    def read(cls, content: bytes, coordinator_key: PublicKey) -> "JoinPackage":
        """Checks form and signature; certificate and roster are for the bank to check against its own keys."""
        body = open_document(content, PACKAGE, lambda _: coordinator_key)
        try:
            roster = base64.b64decode(text_of(body, "roster", 1 << 18), validate=True)
            terms = Terms.loads(text_of(body, "terms").encode(), "the join package")
            root = base64.b64decode(
                text_of(body, "release_root", 1 << 17) if "release_root" in body else "", validate=True
            )
        except (binascii.Error, ValueError, ConfigError):
            raise DocumentError(
                "Expected a roster and terms in the join package, got others. Ask for another."
            ) from None
        return cls(
            matching(body, "consortium", NAME),
            matching(body, "bank", BANK),
            text_of(body, "certificate"),
            text_of(body, "authority"),
            roster,
            terms,
            root,
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
        return cls(matching(body, "consortium", NAME), matching(body, "bank", BANK), moment(body, "left"))
