"""Who signs: the banks' release keys with their threshold, and the coordinator's online key, as a TUF root says it.

Root and targets need ``threshold`` banks; snapshot and timestamp the online key (TUF 1.0.34, section 2.1). A
coordinator that is taken over can withhold what is new, until what the banks signed expires, and nothing else.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from securesystemslib.signer import Signature, Signer, SSlibKey
from tuf.api.metadata import Key, Root, Snapshot, Targets, Timestamp

from fedbank.membership.names import BANK, NAME
from fedbank.release.errors import ReleaseError
from fedbank.sealing.keys import PublicKey, SignatureError, SigningKey

FIELD = "x-fedbank"
_BANK_ROLES, _ONLINE_ROLES = (Root.type, Targets.type), (Snapshot.type, Timestamp.type)


@dataclass(frozen=True, slots=True)
class Signatories:
    """Release keys per bank, how many of them a change needs, and the coordinator's online key.

    Raises:
        ReleaseError: a name that no bank has, a threshold that cannot be reached or that nobody needs to reach, or a
            key that two hold.
    """

    consortium: str
    banks: Mapping[str, PublicKey]
    threshold: int
    online: PublicKey

    def __post_init__(self) -> None:
        for name, pattern in ((self.consortium, NAME), *((bank, BANK) for bank in self.banks)):
            if not re.fullmatch(pattern, name):  # shown to whoever signs: no name may end a line or look like another
                raise ReleaseError("root", f"Expected names as the roster has them, got {name!r:.120}. Do not sign it.")
        if not 1 <= self.threshold <= len(self.banks):
            raise ReleaseError(
                "threshold",
                f"Expected a threshold from 1 to the number of banks ({len(self.banks)}), got {self.threshold}.",
            )
        holders: dict[bytes, str] = {self.online.raw: "the coordinator"}
        for bank, key in sorted(self.banks.items()):
            if other := holders.get(key.raw):
                raise ReleaseError(
                    "one-key-for-two",
                    f"Expected a release key of its own for {bank}, got that of {other}. Two signatures of one key "
                    "are one signature: make a new key with fedbank client release key.",
                )
            holders[key.raw] = bank

    def root(self, version: int, expires: datetime) -> Root:
        """The unsigned root metadata that says so."""
        root = Root(version=version, expires=expires, consistent_snapshot=True)
        for _, key in sorted(self.banks.items()):
            for role in _BANK_ROLES:
                root.add_key(tuf_key(key), role)
        for role in _ONLINE_ROLES:
            root.add_key(tuf_key(self.online), role)
        for role in _BANK_ROLES:
            root.roles[role].threshold = self.threshold
        names = {bank: tuf_key(key).keyid for bank, key in sorted(self.banks.items())}
        root.unrecognized_fields[FIELD] = {"consortium": self.consortium, "banks": names}
        return root

    @classmethod
    def of(cls, root: Root) -> "Signatories":
        """What ``root`` says, if it is exactly of the form that ``root`` writes.

        Raises:
            ReleaseError: another role, key type or threshold, a bank without a name, a key under a false identifier.
        """
        try:
            said = root.unrecognized_fields[FIELD]
            names: dict[str, str] = dict(said["banks"])
            banks = {bank: _public(root.keys[keyid]) for bank, keyid in names.items()}
            (online,) = root.roles[Timestamp.type].keyids
            found = cls(str(said["consortium"]), banks, root.roles[Root.type].threshold, _public(root.keys[online]))
        except (KeyError, TypeError, ValueError, AttributeError, SignatureError) as error:
            raise ReleaseError(
                "root", "Expected root metadata that names every bank's release key, got something else."
            ) from error
        if _without_patch(found.root(root.version, root.expires)) != _without_patch(root):
            raise ReleaseError(
                "root",
                "Expected root metadata in which the banks named hold root and targets and the coordinator snapshot "
                "and timestamp, each with the identifier of its key, got another division. Do not sign it.",
            )
        return found

    def names(self) -> dict[str, str]:
        """The bank of each key identifier."""
        return {tuf_key(key).keyid: bank for bank, key in self.banks.items()}


class KeySigner(Signer):
    """Signs metadata with a key of ours."""

    def __init__(self, key: SigningKey) -> None:
        self._key = key

    @property
    def public_key(self) -> Key:
        """The public half, as metadata lists it."""
        return tuf_key(self._key.public)

    @classmethod
    def from_priv_key_uri(cls, priv_key_uri: str, public_key: Key, secrets_handler: Any = None) -> "KeySigner":
        """Keys come from files of their owners, never from an address in a document."""
        raise NotImplementedError("a signing key is loaded from its file")

    def sign(self, payload: bytes) -> Signature:
        """An Ed25519 signature (RFC 8032)."""
        return Signature(self.public_key.keyid, self._key.sign(payload).hex())


def tuf_key(key: PublicKey) -> SSlibKey:
    """The key as TUF writes it, under the SHA-256 of its canonical form (TUF 1.0.34, section 4.2)."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(key.raw))


def _without_patch(root: Root) -> dict[str, Any]:
    """All of ``root`` but which edition of TUF 1.0 its writer had: the library of a later day names a later one."""
    said: dict[str, Any] = root.to_dict()
    del said["spec_version"]
    return said


def _public(key: Key) -> PublicKey:
    if (key.keytype, key.scheme) != ("ed25519", "ed25519"):
        raise ValueError(f"a key of type {key.keytype}")
    return PublicKey.from_hex(key.keyval["public"])
