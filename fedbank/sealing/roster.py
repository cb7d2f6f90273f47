"""The roster (docs/formats/roster.md): which banks are members, by which keys, as the coordinator signed it.

Every bank holds the coordinator's key from its invitation; a roster's sequence number only ever rises.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

from fedbank.sealing.canonical import canonical, read_canonical
from fedbank.sealing.envelope import open_sealed, seal
from fedbank.sealing.keys import PublicKey, SignatureError, SigningKey
from fedbank.sealing.refusals import RosterError, StaleRosterError

KIND, COORDINATOR = "roster", "coordinator"
"""The kind of a roster's envelope, and the name that its signer goes by (no bank may have it)."""
FORMAT = "fedbank-roster/1"
MAX_ROSTER_BYTES = 1 << 20
_MAX_SEQUENCE = 2**53 - 1
_BANK = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HEX = re.compile(r"[0-9a-f]{64}")
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,6})?(Z|\+00:00)")


@dataclass(frozen=True, slots=True)
class Member:
    """One bank: what it signs with, what its node and its TLS certificate are, since when and until when.

    ``node_key`` is an OpenSSH public key line of a P-384 key, without comment; ``certificate_sha256`` 64 lower-case
    hexadecimal digits; ``joined`` and ``revoked`` are UTC, ISO 8601.

    Raises:
        RosterError: one of these is something else.
    """

    bank: str
    signing_key: PublicKey
    node_key: str
    certificate_sha256: str
    joined: str
    revoked: str | None = None

    def __post_init__(self) -> None:
        if not _BANK.fullmatch(self.bank) or self.bank == COORDINATOR:
            raise RosterError(
                "Expected a bank's name of at most 64 letters, digits, dots, dashes and underscores (and not "
                f"{COORDINATOR!r}), got {self.bank!r:.80}."
            )
        if not _is_node_key(self.node_key):
            raise _unlike(self.bank, "an OpenSSH line with a P-384 key and no comment", self.node_key)
        if not _HEX.fullmatch(self.certificate_sha256):
            raise _unlike(self.bank, "a certificate's SHA-256 in lower-case hexadecimal", self.certificate_sha256)
        if not _is_utc(self.joined):
            raise _unlike(self.bank, "the time of joining in UTC", self.joined)
        if self.revoked is not None and not _is_utc(self.revoked):
            raise _unlike(self.bank, "the time of revocation in UTC", self.revoked)


@dataclass(frozen=True, slots=True)
class Roster:
    """All members that ``consortium`` has or had, by name; ``sequence`` rises with every change.

    Raises:
        RosterError: two members share a key or a certificate, or a name, a number or an entry is not allowed.
    """

    consortium: str
    sequence: int
    coordinator_key: PublicKey
    members: Mapping[str, Member]

    def __post_init__(self) -> None:
        name = self.consortium
        if not 1 <= len(name) <= 64 or not name.isprintable() or name != name.strip():
            raise RosterError(f"Expected a consortium's name of 1 to 64 printable characters, got {name!r:.80}.")
        if type(self.sequence) is not int or not 0 <= self.sequence <= _MAX_SEQUENCE:
            raise RosterError(f"Expected a sequence number from 0 to 2^53 - 1, got {self.sequence!r:.40}.")
        object.__setattr__(self, "members", {bank: self.members[bank] for bank in sorted(self.members)})
        for bank, member in self.members.items():
            if bank != member.bank:
                raise RosterError(f"Expected the entry of {bank!r:.80} under its own name, got that of {member.bank}.")
        self._refuse_shared("signing key", {bank: m.signing_key.raw for bank, m in self.members.items()})
        self._refuse_shared("node key", {bank: m.node_key for bank, m in self.members.items()})
        self._refuse_shared("certificate", {bank: m.certificate_sha256 for bank, m in self.members.items()})

    def active(self) -> dict[str, Member]:
        """The members that are not revoked, by name."""
        return {bank: member for bank, member in self.members.items() if member.revoked is None}

    def find_key(self, bank: str) -> PublicKey | None:
        """The signing key of an active member; ``None`` for anybody else. What ``open_sealed`` asks for."""
        member = self.members.get(bank)
        return member.signing_key if member is not None and member.revoked is None else None

    def digest(self) -> str:
        """SHA-256 of the roster's canonical JSON, hexadecimal: what envelopes name it by."""
        return hashlib.sha256(_write(self)).hexdigest()

    def _refuse_shared(self, what: str, values: Mapping[str, str | bytes]) -> None:
        owners: dict[str | bytes, str] = {}
        if what == "signing key":
            owners[self.coordinator_key.raw] = "the coordinator"
        for bank, value in values.items():
            if owners.setdefault(value, bank) != bank:
                raise RosterError(f"Expected a {what} of its own for {bank}, got the one of {owners[value]}.")


def sign_roster(roster: Roster, key: SigningKey) -> bytes:
    """``roster`` in an envelope, for all members to read.

    Raises:
        RosterError: ``key`` is not the coordinator's, or the roster has more bytes than members would read.
    """
    if key.public != roster.coordinator_key:
        raise RosterError("Expected the key of the coordinator that the roster names, got another. Nothing was signed.")
    payload = _write(roster)
    if len(payload) > MAX_ROSTER_BYTES:
        raise RosterError(f"Expected a roster of at most {MAX_ROSTER_BYTES} bytes, got {len(payload)}.")
    return seal(KIND, COORDINATOR, {}, payload, key)


def read_roster(content: bytes | memoryview, coordinator_key: PublicKey, minimum_sequence: int = 0) -> Roster:
    """The roster in ``content``, if this coordinator signed it and it is not older than one that is known.

    Raises:
        RefusedError: a subclass that says which check failed, in the order of ``open_sealed``, then the roster's own
            rules (``RosterError``), then its age (``StaleRosterError``).
    """
    keys = {COORDINATOR: coordinator_key}
    payload = bytes(open_sealed(content, KIND, keys.get, {}, MAX_ROSTER_BYTES).payload)
    try:
        roster = _parse(read_canonical(payload))
    except (ValueError, TypeError, KeyError, AttributeError, SignatureError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise RosterError(f"Expected a roster in canonical JSON, got something else: {what:.200}.") from error
    if roster.coordinator_key != coordinator_key:
        raise RosterError("Expected a roster that names the coordinator who signed it, got another's key in it.")
    if roster.sequence < minimum_sequence:
        raise StaleRosterError(
            f"Expected a roster with sequence number {minimum_sequence} or higher, got {roster.sequence}: an older "
            "one. Nothing was changed."
        )
    return roster


def _write(roster: Roster) -> bytes:
    members = {
        bank: {
            "signing_key": member.signing_key.hex(),
            "node_key": member.node_key,
            "certificate_sha256": member.certificate_sha256,
            "joined": member.joined,
            "revoked": member.revoked,
        }
        for bank, member in roster.members.items()
    }
    head = {"format": FORMAT, "consortium": roster.consortium, "sequence": roster.sequence}
    return canonical({**head, "coordinator_key": roster.coordinator_key.hex(), "members": members})


def _parse(value: dict[str, Any]) -> Roster:
    """Exactly the fields that ``_write`` writes, or one of the errors that ``read_roster`` catches."""
    if value.pop("format") != FORMAT:
        raise ValueError(f"it is not of the format {FORMAT}")
    members = {}
    for bank, entry in value.pop("members").items():
        key = PublicKey.from_hex(entry.pop("signing_key"))
        members[bank] = Member(bank=bank, signing_key=key, revoked=entry.pop("revoked"), **entry)
    return Roster(coordinator_key=PublicKey.from_hex(value.pop("coordinator_key")), members=members, **value)


def _unlike(bank: str, what: str, found: object) -> RosterError:
    return RosterError(f"Expected {what} for {bank}, got {found!r:.80}.")


def _is_node_key(line: str) -> bool:
    try:
        key = load_ssh_public_key(line.encode()) if len(line) <= 256 else None
    except (ValueError, UnsupportedAlgorithm, NotImplementedError):  # the last: a compressed point
        return False
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP384R1):
        return False
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) == line.encode()


def _is_utc(text: str) -> bool:
    try:
        return bool(_TIME.fullmatch(text)) and datetime.fromisoformat(text).utcoffset() == timedelta(0)
    except ValueError:
        return False
