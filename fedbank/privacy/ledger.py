"""A bank's record of the privacy it has spent: append-only, on disk before any noise is drawn.

Stores what was executed (events), never an epsilon: the composition is the accountant's business. One line
per charge, fsynced, so that a crash can cost budget but never hide a spend.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from fedbank.durable import append_durable, read_lines
from fedbank.errors import PrivacyError


@dataclass(frozen=True, slots=True)
class Charge:
    """What one round of one campaign is about to execute on the bank's customers.

    ``replay_id`` names the random stream if it can be drawn again (simulation and tests), ``None`` if not.
    """

    campaign: str
    round: int
    plan_digest: str
    sampling_prob: float
    noise_multiplier: float
    num_steps: int
    replay_id: str | None


class Ledger:
    """The charges of one bank, in one JSON-lines file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def charge(self, charge: Charge) -> bool:
        """Record ``charge`` durably; returns whether a new line was written.

        Computing the same release again (same campaign, round, plan, steps and a stream with the same
        ``replay_id``) yields the same bytes and costs nothing. With a secure stream the noise would be
        fresh, so every execution is a charge of its own.
        """
        if charge.replay_id is not None and charge in self.charges():
            return False
        append_durable(self._path, json.dumps(asdict(charge), sort_keys=True).encode())
        return True

    def charges(self) -> list[Charge]:
        """All charges, oldest first."""
        charges = []
        for number, line in enumerate(read_lines(self._path), start=1):
            try:
                charges.append(Charge(**json.loads(line)))
            except (ValueError, TypeError) as error:
                raise PrivacyError(
                    f"Expected a charge in line {number} of the privacy ledger {self._path.name}, got something else "
                    f"({error}). The ledger must not be edited; restore it from a backup. Nothing was trained."
                ) from error
        return charges
