"""What travels between coordinator and bank: the request for a round, and the update that answers it."""

from dataclasses import dataclass

from fedbank.adapter.state import AdapterSpec, Released, Tensors, from_bytes, to_bytes
from fedbank.errors import UpdateError

RECORD, PAYLOAD = "fedbank", "payload"
"""The one record of a message and its one value: the names on the wire, for both apps."""


@dataclass(frozen=True, slots=True)
class RoundRequest:
    """The coordinator's request to one bank: train on this global adapter for this round, under this plan."""

    campaign: str
    round: int
    plan_digest: str
    adapter: Tensors

    def to_bytes(self) -> bytes:
        """The request as one safetensors file."""
        return to_bytes(
            self.adapter,
            {"kind": "request", "campaign": self.campaign, "round": self.round, "plan_digest": self.plan_digest},
        )

    @classmethod
    def from_bytes(cls, content: bytes, spec: AdapterSpec) -> "RoundRequest":
        """Parse and validate a request against the agreed adapter; ``UpdateError`` if it is anything else."""
        tensors, metadata = from_bytes(content, spec.shapes())
        _expect_fields(metadata, {"kind": "request"}, {"campaign": str, "round": int, "plan_digest": str})
        return cls(metadata["campaign"], metadata["round"], metadata["plan_digest"], tensors)


@dataclass(frozen=True, slots=True)
class Update:
    """A bank's change to the trainable tensors in one round, already private, and its public metadata.

    ``base_digest`` is the digest of the global adapter it starts from, ``num_steps`` the public number of
    local steps, ``plan_digest`` that of the plan it was made under. Nothing else about the bank's data.
    """

    campaign: str
    round: int
    bank: str
    base_digest: str
    plan_digest: str
    num_steps: int
    tensors: Released

    def to_bytes(self) -> bytes:
        """The update as one safetensors file."""
        return to_bytes(
            self.tensors,
            {
                "kind": "update",
                "campaign": self.campaign,
                "round": self.round,
                "bank": self.bank,
                "base_digest": self.base_digest,
                "plan_digest": self.plan_digest,
                "num_steps": self.num_steps,
            },
        )

    @classmethod
    def from_bytes(cls, content: bytes, spec: AdapterSpec) -> "Update":
        """Parse and validate an update against the agreed adapter; ``UpdateError`` if it is anything else."""
        tensors, metadata = from_bytes(content, spec.trainable_shapes())
        texts = dict.fromkeys(("campaign", "bank", "base_digest", "plan_digest"), str)
        _expect_fields(metadata, {"kind": "update"}, {**texts, "round": int, "num_steps": int})
        del metadata["kind"]
        return cls(tensors=Released(tensors), **metadata)


def _expect_fields(metadata: object, fixed: dict[str, str], types: dict[str, type]) -> None:
    """Exactly these fields, of exactly these types: an extra field could carry private data."""
    expected = fixed.keys() | types.keys()
    if not isinstance(metadata, dict) or metadata.keys() != expected:
        raise UpdateError(f"Expected the fields {sorted(expected)}, got {metadata!r:.200}. Nothing was used.")
    for name, value in metadata.items():
        if fixed.get(name, value) != value or type(value) is not types.get(name, str):
            raise UpdateError(
                f"Expected {fixed.get(name, types.get(name))} as {name}, got {value!r:.80}. Nothing was used."
            )
