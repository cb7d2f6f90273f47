"""What a campaign is doing right now, as one record for whoever shows it: a command, a page, metrics.

Written whole to one file whenever it changes, so that a reader never needs the campaign's process.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from fedbank.durable import write_atomic
from fedbank.errors import RunError


class BankState(StrEnum):
    """What the coordinator knows of a bank in the current round.

    idle: there, nothing asked. asked: has the request, its update is not here. sent: its update counts. late: sent
    after its round was committed. refused: it refused, or what it sent was refused. left-out: its update was admitted,
    and was much longer than those of the others. offline: no node of it is there. waiting: it trains at other hours,
    and is asked again then. revoked: no longer a member. excluded: it takes no part, what it accepted is not what was
    proposed.
    """

    IDLE = "idle"
    ASKED = "asked"
    WAITING = "waiting"
    SENT = "sent"
    LATE = "late"
    REFUSED = "refused"
    LEFT_OUT = "left-out"
    OFFLINE = "offline"
    REVOKED = "revoked"
    EXCLUDED = "excluded"


@dataclass(frozen=True, slots=True)
class BankStatus:
    """One bank: its state, since when (UTC, ISO 8601), and why if it was refused, left out or is late."""

    state: BankState
    since: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class CampaignStatus:
    """One campaign. ``round`` is the one at work, ``committed`` the last one on disk, ``adapter`` its digest.

    ``phase`` is the round's (``planned``, ``collecting``, ``aggregating``, ``committed``, ``aborted``) or ``paused``:
    a person has to act, ``last_error`` says on what. ``deadline`` and ``updated`` are UTC (ISO 8601); ``deadline`` is
    empty where a round waits for all banks. ``needed`` updates make a quorum. Every bank takes ``num_steps``
    steps in a round.
    """

    campaign: str
    round: int
    num_rounds: int
    committed: int
    adapter: str
    attempt: int
    phase: str
    needed: int
    deadline: str
    banks: Mapping[str, BankStatus]
    last_error: str
    updated: str
    num_steps: int = 0

    def save(self, path: Path) -> None:
        """Replace the file at ``path``, never in part. Not synced: after a power cut the campaign writes it anew."""
        write_atomic(path, json.dumps(asdict(self), sort_keys=True, indent=1).encode(), sync=False)


def read_status(path: Path) -> CampaignStatus | None:
    """What ``save`` wrote, ``None`` if no campaign has run yet; ``RunError`` if it is something else."""
    try:
        fields = json.loads(path.read_bytes())
        fields["banks"] = {
            bank: BankStatus(BankState(value["state"]), value["since"], value["reason"])
            for bank, value in fields["banks"].items()
        }
        return CampaignStatus(**fields)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(
            f"Expected the status of a campaign in {path}, got something else. Delete the file: a running campaign "
            "writes it anew."
        ) from error
