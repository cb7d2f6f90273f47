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

    ``base_digest`` names the adapter it starts from. ``replay_id`` names the random stream if it can be drawn again
    (simulation and tests), ``None`` if not.
    """

    campaign: str
    round: int
    base_digest: str
    plan_digest: str
    sampling_prob: float
    noise_multiplier: float
    num_steps: int
    replay_id: str | None


class Ledger:
    """The charges of one bank, in one JSON-lines file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def charge(self, charge: Charge, *, max_steps: int) -> bool:
        """Record ``charge`` durably, before any noise is drawn; returns whether a new line was written.

        Computing the same release again (an equal charge with the same ``replay_id``) yields the same bytes and
        costs nothing. With a secure stream the noise would be fresh, so every execution is a charge of its own.

        Raises:
            PrivacyError: the campaign would pass ``max_steps`` steps or change its plan, the same stream would cover
                two releases (their difference would be free of noise), or the ledger is damaged. Nothing is written.
        """
        earlier = self.charges()
        if charge.replay_id is not None:
            if charge in earlier:
                return False
            if any(other.replay_id == charge.replay_id for other in earlier):
                raise PrivacyError(
                    f"Expected a random stream of its own for round {charge.round} of {charge.campaign}, got one that "
                    "another release has used: their difference would carry no noise. Nothing was trained."
                )
        campaign = [other for other in earlier if other.campaign == charge.campaign]
        if any(other.plan_digest != charge.plan_digest for other in campaign):
            raise PrivacyError(
                f"Expected round {charge.round} of {charge.campaign} under the plan of its earlier rounds, "
                "got another plan, whose epsilon would not count them. Begin a new campaign. Nothing was trained."
            )
        spent = sum(other.num_steps for other in campaign)
        if spent + charge.num_steps > max_steps:
            raise PrivacyError(
                f"Round {charge.round} would bring {charge.campaign} to {spent + charge.num_steps} private steps; "
                f"the plan accounts for {max_steps}. End the campaign. Nothing was trained and nothing was sent."
            )
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
