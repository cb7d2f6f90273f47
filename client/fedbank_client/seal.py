"""How a bank knows its coordinator, and how the coordinator knows the bank: one key and one name for each."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from fedbank.adapter.update import COORDINATOR
from fedbank.sealing.envelope import open_sealed, seal
from fedbank.sealing.keys import PublicKey, SigningKey

_MASK_LABEL = b"fedbank-mask/1\0"


@dataclass(frozen=True, slots=True)
class BankSeal:
    """Everything that a bank sends is signed with ``key``; everything that it reads has to be the coordinator's.

    ``context`` is the campaign's (``CampaignTerms.context``): what was signed for another one is not read.
    """

    bank: str
    key: SigningKey
    context: Mapping[str, str]
    coordinator: PublicKey
    max_bytes: int = 1 << 31

    def open(self, kind: str, content: bytes) -> bytes:
        """What the coordinator signed; ``RefusedError`` (an ``UpdateError``) before anything of it is parsed."""

        def find_key(signer: str) -> PublicKey | None:
            return self.coordinator if signer == COORDINATOR else None

        return bytes(open_sealed(content, kind, find_key, self.context, self.max_bytes).payload)

    def mask(self) -> str:
        """The secret that bank and coordinator share in this campaign (``Presence.mask``).

        An Ed25519 signature is a function of key and message (RFC 8032, section 5.1.6) that only the key's owner can
        compute; nothing else is signed under this label.
        """
        return hashlib.sha256(self.key.sign(_MASK_LABEL + self.context["campaign"].encode())).hexdigest()

    def close(self, kind: str, payload: bytes) -> bytes:
        """``payload`` signed by the bank."""
        return seal(kind, self.bank, self.context, payload, self.key)
