"""What travels between coordinator and bank, each in a signed envelope.

A question who is there and the bank's answer; the request for a round and the update that answers it.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from fedbank.adapter.heads import NO_LINES, CallNote, LedgerHead
from fedbank.adapter.state import MAX_HEADER_BYTES, AdapterSpec, Released, Tensors, from_bytes, read_header, to_bytes
from fedbank.errors import UpdateError
from fedbank.strict_json import read_object

RECORD, PAYLOAD = "fedbank", "payload"
"""The one record of a message and its one value: the names on the wire, for both apps."""

QUESTION, PRESENCE, REQUEST, UPDATE = "question", "presence", "request", "update"
"""The kinds of envelopes. The coordinator signs questions and requests in the name of ``COORDINATOR``."""

COORDINATOR = "coordinator"
REFUSED_CODE = 100
"""The code of a bank's refusal among the errors of Flower, whose own codes end far below."""
LATER_CODE = 102
"""The code of a bank's answer that it trains at another hour (``Later``); 101 is the transport's."""

NONCE_BYTES = 16
"""A question is that many random bytes."""

_MAX_PRESENCE_BYTES = 1024
_LATER = "later: not before %Y-%m-%dT%H:%MZ"


@dataclass(frozen=True, slots=True)
class Presence:
    """A bank's answer to who is there: its name, which start of its app this is, and the question it answers.

    ``instance`` is drawn at every start: a new one tells the coordinator that what was asked before is lost. ``mask``
    is a secret of the two, the same after every start, so that a call from before a start can still be read.
    ``nonce`` repeats the question's random bytes (hexadecimal), so that nobody can answer with an old answer. ``head``
    is the head of the bank's ledger: the coordinator keeps it and hands it back, so that a bank finds out if another
    copy of its folder spends too.
    """

    bank: str
    instance: str
    mask: str
    nonce: str
    head: LedgerHead = NO_LINES

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        fields = {"bank": self.bank, "instance": self.instance, "mask": self.mask, "nonce": self.nonce}
        fields["head"] = self.head.to_text()
        return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Presence":
        """Parse an answer; ``UpdateError`` if it is anything else."""
        try:
            fields: dict[str, str] = read_object(content, _MAX_PRESENCE_BYTES)
        except ValueError as error:
            raise UpdateError("Expected who is there in JSON, got something else. Nothing was used.") from error
        _expect_fields(fields, {}, dict.fromkeys(("bank", "head", "instance", "mask", "nonce"), str))
        head = LedgerHead.from_text(fields.pop("head"))
        return cls(head=head, **fields)


@dataclass(frozen=True, slots=True)
class RoundRequest:
    """The coordinator's request to one bank: train on this global adapter for this round, under this plan.

    ``previous`` is the digest of the adapter that the round before started from; empty in round 1. ``head`` and
    ``twin`` are what ``CallNote`` says.
    """

    campaign: str
    round: int
    plan_digest: str
    adapter: Tensors
    previous: str = ""
    head: LedgerHead = NO_LINES
    twin: bool = False

    def to_bytes(self) -> bytes:
        """The request as one safetensors file."""
        named = {"kind": "request", "campaign": self.campaign, "round": self.round, "plan_digest": self.plan_digest}
        told = {"previous": self.previous, "head": self.head.to_text(), "twin": self.twin}
        return to_bytes(self.adapter, {**named, **told})

    @classmethod
    def from_bytes(cls, content: bytes, spec: AdapterSpec) -> "RoundRequest":
        """Parse and validate a request against the agreed adapter; ``UpdateError`` if it is anything else."""
        tensors, metadata = from_bytes(content, spec.shapes())
        texts = dict.fromkeys(("campaign", "plan_digest", "previous", "head"), str)
        _expect_fields(metadata, {"kind": "request"}, {**texts, "round": int, "twin": bool})
        del metadata["kind"]
        head = LedgerHead.from_text(metadata.pop("head"))
        return cls(adapter=tensors, head=head, **metadata)


@dataclass(frozen=True, slots=True)
class RoundCall:
    """One request to all banks: the same bytes for everybody, signed and stored by Flower once, not once per bank.

    ``notes`` holds each bank's ``CallNote``, masked so that only that bank can read it: a plan tells how many
    customers a bank declared to the coordinator, which is no other bank's business, nor is its ledger. The mask is
    that of the bank's ``Presence``, which nobody but the two knows. ``previous`` is as in ``RoundRequest``.
    """

    campaign: str
    round: int
    notes: Mapping[str, str]
    adapter: Tensors
    previous: str = ""

    @classmethod
    def to_all(
        cls,
        campaign: str,
        number: int,
        notes: Mapping[str, CallNote],
        masks: Mapping[str, str],
        adapter: Tensors,
        previous: str = "",
    ) -> "RoundCall":
        """The call to the banks in ``masks``."""
        masked = {
            bank: _masked(notes[bank].to_text().encode(), mask, bank, campaign, number).hex()
            for bank, mask in masks.items()
        }
        return cls(campaign, number, masked, adapter, previous)

    def to_bytes(self) -> bytes:
        """The call as one safetensors file."""
        fields = {"kind": "call", "campaign": self.campaign, "round": self.round, "notes": dict(self.notes)}
        return to_bytes(self.adapter, {**fields, "previous": self.previous})

    @staticmethod
    def request_to(bank: str, mask: str, content: bytes) -> bytes:
        """The ``RoundRequest`` to ``bank`` that a call holds; ``UpdateError`` if ``bank`` is not called.

        Rewrites the header and leaves the tensors unread: ``RoundRequest.from_bytes`` checks them.
        """
        header, length = read_header(content), int.from_bytes(content[:8], "little")
        try:
            call = read_object(header["__metadata__"]["fedbank"], MAX_HEADER_BYTES)
            if call.pop("kind") != "call":
                raise ValueError("not a call")
            masked = bytes.fromhex(call.pop("notes")[bank])
            note = CallNote.from_text(_masked(masked, mask, bank, call["campaign"], call["round"]).decode())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UpdateError(f"Expected a call of {bank} to a round, got something else. Nothing was used.") from error
        told = {"plan_digest": note.plan_digest, "head": note.head.to_text(), "twin": note.twin}
        request = {**call, "kind": "request", **told}
        header["__metadata__"]["fedbank"] = json.dumps(request, sort_keys=True, separators=(",", ":"))
        written = json.dumps(header, separators=(",", ":")).encode()
        written += b" " * (-len(written) % 8)
        return b"".join((len(written).to_bytes(8, "little"), written, memoryview(content)[8 + length :]))


def _masked(text: bytes, *context: str | int) -> bytes:
    """``text`` xor SHAKE-256 (FIPS 202) of ``context``; the same again takes the mask off."""
    stream = hashlib.shake_256(json.dumps(["fedbank-mask/1", *context]).encode()).digest(len(text))
    return bytes(a ^ b for a, b in zip(text, stream, strict=True))


@dataclass(frozen=True, slots=True)
class Later:
    """A bank's answer to a request outside the hours in which it trains: ask again at ``until`` (aware)."""

    until: datetime

    def to_text(self) -> str:
        """The answer, to the minute; nothing else is in it."""
        return self.until.astimezone(UTC).strftime(_LATER)

    @classmethod
    def from_text(cls, text: str) -> "Later":
        """Parse an answer; ``UpdateError`` if it is anything else."""
        try:
            found = cls(datetime.strptime(text[:80], _LATER).replace(tzinfo=UTC))
        except ValueError:
            found = None
        if found is None or found.to_text() != text:
            raise UpdateError("Expected the hour at which a bank trains, got something else. Nothing was used.")
        return found


@dataclass(frozen=True, slots=True)
class Disclosure:
    """What a bank chose to tell of its ledger with an update: epsilon at its plan's delta, this round included.

    ``campaign``: of this campaign. ``total``: of everything that its customers ever took part in, ``None`` if that is
    not told.
    """

    campaign: float
    total: float | None

    @classmethod
    def from_fields(cls, fields: object) -> "Disclosure":
        """Parse what came with an update; ``UpdateError`` unless it is one or two positive numbers."""
        if isinstance(fields, dict) and fields.keys() == {"campaign", "total"}:
            campaign, total = fields["campaign"], fields["total"]
            if _is_epsilon(campaign) and (total is None or _is_epsilon(total)):
                return cls(campaign, total)
        raise UpdateError(f"Expected epsilons that a bank has spent, got {fields!r:.80}. Nothing was used.")


@dataclass(frozen=True, slots=True)
class Update:
    """A bank's change to the trainable tensors in one round, already private, and its public metadata.

    ``base_digest`` is the digest of the global adapter it starts from, ``num_steps`` the public number of
    local steps, ``plan_digest`` that of the plan it was made under, ``disclosed`` what the bank tells of its ledger by
    its own choice, ``head`` that of its ledger with this round's charge. Nothing else about the bank's data.
    """

    campaign: str
    round: int
    bank: str
    base_digest: str
    plan_digest: str
    num_steps: int
    tensors: Released
    disclosed: Disclosure | None = None
    head: LedgerHead = NO_LINES

    def to_bytes(self) -> bytes:
        """The update as one safetensors file."""
        told = {} if self.disclosed is None else {"disclosed": asdict(self.disclosed)}
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
                "head": self.head.to_text(),
                **told,
            },
        )

    @classmethod
    def from_bytes(cls, content: bytes, spec: AdapterSpec) -> "Update":
        """Parse and validate an update against the agreed adapter; ``UpdateError`` if it is anything else."""
        tensors, metadata = from_bytes(content, spec.trainable_shapes())
        texts = dict.fromkeys(("campaign", "bank", "base_digest", "plan_digest", "head"), str)
        told = isinstance(metadata, dict) and "disclosed" in metadata
        disclosed = Disclosure.from_fields(metadata.pop("disclosed")) if told else None
        _expect_fields(metadata, {"kind": "update"}, {**texts, "round": int, "num_steps": int})
        del metadata["kind"]
        head = LedgerHead.from_text(metadata.pop("head"))
        return cls(tensors=Released(tensors), disclosed=disclosed, head=head, **metadata)


def _is_epsilon(value: object) -> bool:
    return type(value) is float and 0 < value < math.inf


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
