"""How a bank knows its coordinator, and how the coordinator knows the bank: one key and one name for each."""

from collections.abc import Mapping
from dataclasses import dataclass

from fedbank.adapter.update import COORDINATOR
from fedbank.sealing.envelope import open_sealed, seal
from fedbank.sealing.keys import PublicKey, SigningKey


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

    def close(self, kind: str, payload: bytes) -> bytes:
        """``payload`` signed by the bank."""
        return seal(kind, self.bank, self.context, payload, self.key)
