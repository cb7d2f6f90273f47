"""Invitations that the coordinator gave: each lets one bank join once, until it expires.

The server keeps the public half of an invitation's key: whoever reads its folder cannot join with it.
All but ``invite`` expect the caller to hold the folder's lock (``fedbank.membership.folders.locked``).
"""

import json
import secrets
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from fedbank.certificates import read_certificate, to_pem
from fedbank.durable import write_atomic
from fedbank.errors import RunError
from fedbank.membership.documents import Invitation
from fedbank.membership.folders import locked, utc
from fedbank.membership.signed import DocumentError
from fedbank.sealing.keys import PublicKey, SigningKey
from fedbank.sealing.roster import read_roster
from fedbank_server.consortium import Files, note, read_consortium

_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Issued:
    """What the server remembers of an invitation.

    ``key``: its public half, hexadecimal. ``used``: SHA-256 of the one request that it admitted. Times: UTC, ISO 8601.
    """

    key: str
    bank: str
    issued: str
    expires: str
    used: str | None = None
    withdrawn: str | None = None


def invite(folder: Path, bank: str, now: datetime, *, valid: timedelta) -> tuple[Invitation, bytes]:
    """A new invitation for ``bank``, remembered here, and its file. Earlier ones that nobody used stay valid.

    Raises:
        RunError: the bank is a member.
    """
    files, consortium = Files(folder), read_consortium(folder)
    with locked(folder):
        coordinator = SigningKey.load(files.coordinator_key)
        if read_roster(files.roster.read_bytes(), coordinator.public).find_key(bank) is not None:
            raise RunError(f"Expected a bank that is no member yet, got {bank}. See fedbank server members.")
        invitation = Invitation(
            consortium.name,
            bank,
            consortium.addresses,
            to_pem(read_certificate(files.authority)).decode(),
            coordinator.public,
            now + valid,
            secrets.token_bytes(_SECRET_BYTES),
        )
        given = Issued(invitation.key.public.hex(), bank, utc(now), utc(invitation.expires))
        note(files, consortium.name, coordinator, "bank-invited", bank, f"key {given.key}, until {given.expires}")
        _write(files, [*read_invitations(files), given])
    return invitation, invitation.write(coordinator)


def check_invitation(files: Files, key: PublicKey, bank: str, request: str, now: datetime) -> None:
    """Check that the invitation with ``key`` lets ``bank`` join ``now`` by ``request`` (SHA-256 of its file).

    The request that used it before may come again: whoever asks was cut off.

    Raises:
        DocumentError: it is unknown, of another bank, used, withdrawn or expired.
    """
    known = {given.key: given for given in read_invitations(files)}
    given = known.get(key.hex())
    again = f"Send a new one: fedbank server invite --bank {bank} -o FILE"
    if given is None:
        raise DocumentError(f"Expected a request on an invitation from this server, got one on another. {again}")
    if given.bank != bank:
        raise DocumentError(
            f"Expected a request of {given.bank}, whom the invitation was for, got one of {bank}. {again}"
        )
    if given.withdrawn is not None:
        raise DocumentError(f"Expected a valid invitation, got one that was withdrawn {given.withdrawn}. {again}")
    if given.used is not None and given.used != request:
        raise DocumentError(f"Expected an unused invitation, got one that {bank} has used already. {again}")
    if given.used is None and now > datetime.fromisoformat(given.expires):
        raise DocumentError(f"Expected a valid invitation, got one that expired {given.expires}. {again}")


def mark_used(files: Files, key: PublicKey, request: str) -> None:
    """Remember which request used the invitation with ``key``."""
    _write(files, [replace(g, used=request) if g.key == key.hex() else g for g in read_invitations(files)])


def withdraw(files: Files, bank: str, now: datetime) -> None:
    """Withdraw every invitation of ``bank``."""
    old = read_invitations(files)
    new = [replace(g, withdrawn=utc(now)) if g.bank == bank and g.withdrawn is None else g for g in old]
    if new != old:
        _write(files, new)


def read_invitations(files: Files) -> list[Issued]:
    """All invitations, in the order in which they were given.

    Raises:
        RunError: the file is damaged.
    """
    if not files.invitations.exists():
        return []
    try:
        return [Issued(**row) for row in json.loads(files.invitations.read_bytes())]
    except (ValueError, TypeError):
        raise RunError(
            f"Expected the list of invitations in {files.invitations}, got something else. Restore it from a backup."
        ) from None


def _write(files: Files, issued: list[Issued]) -> None:
    content = json.dumps([asdict(given) for given in issued], indent=1) + "\n"
    write_atomic(files.invitations, content.encode(), mode=0o600)
