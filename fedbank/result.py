"""How a campaign ends: the coordinator hands out the shared adapter, every bank says which one it has received."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedbank.adapter.state import AdapterSpec, from_bytes, to_bytes
from fedbank.errors import UpdateError

RESULT, RECEIPT = "result", "receipt"
"""The kinds of envelopes."""
RECEIPT_BYTES = 64
"""A receipt's payload is a digest in hexadecimal."""


@dataclass(frozen=True, slots=True)
class Result:
    """The adapter after the last of ``rounds`` rounds of ``campaign``."""

    campaign: str
    rounds: int
    adapter: Mapping[str, NDArray[np.float32]]

    def to_bytes(self) -> bytes:
        """The result as one safetensors file."""
        return to_bytes(self.adapter, {"kind": "result", "campaign": self.campaign, "rounds": self.rounds})

    @classmethod
    def from_bytes(cls, content: bytes, spec: AdapterSpec) -> "Result":
        """Parse and validate against the agreed adapter; ``UpdateError`` if it is anything else."""
        tensors, fields = from_bytes(content, spec.shapes())
        expected = {"kind": str, "campaign": str, "rounds": int}
        if not isinstance(fields, dict) or {name: type(value) for name, value in fields.items()} != expected:
            raise UpdateError(f"Expected the fields {sorted(expected)}, got {fields!r:.200}. Nothing was used.")
        if fields["kind"] != "result":
            raise UpdateError(f"Expected a campaign's result, got {fields['kind']!r:.80}. Nothing was used.")
        return cls(fields["campaign"], fields["rounds"], tensors)


@dataclass(frozen=True, slots=True)
class Receipt:
    """A bank has kept the adapter with this digest; which bank, and in which campaign, is in the envelope."""

    adapter_digest: str

    def to_bytes(self) -> bytes:
        """The digest."""
        return self.adapter_digest.encode()
