"""Whether bytes from outside are an update that counts. Never raises for what a sender can do: a refusal is a value.

The order of the checks, each cheaper or more fundamental than the next: size, signature, schema, signer, finite values,
norm, the right round of the right campaign, no second one. Who sent it is what the signature says and nothing else, and
its weight is what the terms say: a message has no say in either.
"""

import math
from collections.abc import Callable, Container
from dataclasses import dataclass

import numpy as np

from fedbank.adapter.state import AdapterSpec, NotFiniteError, Tensors
from fedbank.adapter.update import UPDATE, Update
from fedbank.aggregation.terms import CampaignTerms
from fedbank.errors import UpdateError
from fedbank.foreign import printable
from fedbank.sealing.envelope import MAX_OVERHEAD, Opened, open_sealed
from fedbank.sealing.keys import PublicKey
from fedbank.sealing.refusals import RefusedError

_HEADER_BYTES = 1 << 20
MAX_REASON = 400
"""Characters of a refusal: it quotes what was sent, and is kept in every place that tells of it."""
FindKey = Callable[[str], PublicKey | None]
"""The key of an active member, ``None`` for anybody else."""


@dataclass(frozen=True, slots=True)
class Refused:
    """What was not used: the check that failed and one sentence; ``bank`` was asked, or signed it.

    A ``reason`` beyond ``MAX_REASON`` is cut, so that nobody fills the coordinator's disk with names of his own making.
    """

    bank: str
    check: str
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", printable(self.reason, MAX_REASON))


@dataclass(frozen=True, slots=True)
class Admitted:
    """An update that may count, with the key that signed it (hexadecimal) and the SHA-256 of what was signed."""

    update: Update
    key: str
    digest: str
    num_bytes: int
    norm: float


@dataclass(frozen=True, slots=True)
class Expected:
    """What is asked for: an update to ``round`` from the adapter ``base_digest``; ``have`` are banks that sent one.

    ``committed`` is the number of the last committed round.
    """

    round: int
    base_digest: str
    committed: int
    have: Container[str] = ()


def admit(content: object, terms: CampaignTerms, expected: Expected, find_key: FindKey) -> Admitted | Refused:
    """``content`` as an update that counts, or why it does not. Bytes are read once, at most ``max_payload_bytes``."""
    if not isinstance(content, bytes):
        return Refused("", "format", f"Expected bytes, got {type(content).__name__}. Nothing was used.")
    try:
        opened = open_update(content, terms, find_key)
    except RefusedError as error:
        return Refused("", error.check, str(error))
    try:
        update = Update.from_bytes(bytes(opened.payload), terms.adapter)
    except UpdateError as error:
        check = "finite" if isinstance(error, NotFiniteError) else "schema"
        return Refused(opened.signer, check, str(error))
    norm = l2_norm(update.tensors)
    refused = _check(update, norm, opened.signer, terms, expected)
    key = find_key(opened.signer)
    if refused is not None or key is None:
        return refused or Refused(opened.signer, "signer", "Expected an active member. Nothing was used.")
    return Admitted(update, key.hex(), opened.digest, len(opened.payload), norm)


def open_update(content: bytes, terms: CampaignTerms, find_key: FindKey) -> Opened:
    """The signed envelope of an update of a member of the campaign; ``RefusedError`` if it is not one."""

    def find_member(bank: str) -> PublicKey | None:
        return find_key(bank) if bank in terms.weights else None

    return open_sealed(content, UPDATE, find_member, terms.context, max_payload_bytes(terms.adapter))


def max_payload_bytes(spec: AdapterSpec) -> int:
    """Bytes of the largest update to ``spec``: fp32 values and a header."""
    return 4 * sum(math.prod(shape) for shape in spec.trainable_shapes().values()) + _HEADER_BYTES


def max_message_bytes(spec: AdapterSpec) -> int:
    """Bytes of the largest envelope of an update to ``spec``: what a transport has to let through."""
    return max_payload_bytes(spec) + MAX_OVERHEAD


def l2_norm(tensors: Tensors) -> float:
    """Over all tensors together, accumulated in fp64."""
    return math.sqrt(sum(float(np.square(tensor, dtype=np.float64).sum()) for tensor in tensors.values()))


def _check(update: Update, norm: float, signer: str, terms: CampaignTerms, expected: Expected) -> Refused | None:
    """The checks of what an update says, in order; the first that fails."""
    bank, number = update.bank, update.round
    late, longest = number <= expected.committed, terms.max_norm(signer)
    checks = {
        "bank": (signer, bank, "signed by the bank that it names"),
        "norm": (True, norm <= longest, f"no longer than {longest:.6g}; it has {norm:.6g}"),
        "campaign": (terms.campaign, update.campaign, "to this campaign"),
        "late": (False, late, f"before its round was committed; it is to round {number}, {expected.committed} is done"),
        "round": (expected.round, number, "to this round"),
        "base": (expected.base_digest, update.base_digest, "that starts from this round's adapter"),
        "plan": (terms.plans.get(bank), update.plan_digest, "under the bank's agreed plan"),
        "steps": (terms.num_local_steps, update.num_steps, "of the agreed steps"),
        "duplicate": (False, bank in expected.have, "once in a round"),
    }
    for name, (wanted, got, words) in checks.items():
        if wanted != got:
            found = "" if isinstance(got, bool) else f": {wanted!r:.80}, got {got!r:.80}"
            return Refused(signer, name, f"Expected an update {words}{found}. It was not used.")
    return None
