"""How long what was signed about releases still holds: lines for ``doctor``, of a bank and of the coordinator alike."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from tuf.api.metadata import Root, Targets, Timestamp

from fedbank.membership.health import OK, WARN, Finding, expiry
from fedbank.release.trust import MAX_ROOT_BYTES, read_metadata

_SIGN_ANEW = "Then no sync succeeds any more. The members sign anew: fedbank server release keys"


def standing(root: Root, targets: Targets | None, timestamp: Path, now: datetime, remedy: str) -> Iterator[Finding]:
    """Until when the members' signatures are valid, and the coordinator's last word on what is newest.

    ``timestamp``: the file of that word; without it nothing was said yet. ``remedy``: what helps if it is too old.

    Raises:
        ReleaseError: the file holds something else.
    """
    for part in (root, targets):
        if part is not None:
            yield expiry(f"releases: {part.type}", part.expires, now, _SIGN_ANEW)
    if not timestamp.exists():
        return
    said = read_metadata(timestamp.read_bytes(), Timestamp, MAX_ROOT_BYTES).signed
    if said.is_expired(now):
        ends = f"{said.expires:%Y-%m-%d %H:%M} UTC"
        yield Finding(WARN, "releases: newest", f"Nobody has said what is newest for later than {ends}. {remedy}")
    else:
        yield Finding(OK, "releases: newest", f"said for until {said.expires:%Y-%m-%d %H:%M} UTC")
