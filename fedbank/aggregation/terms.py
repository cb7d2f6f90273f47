"""What the parties of a campaign agreed on before its first round."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from fedbank.adapter.state import AdapterSpec
from fedbank.aggregation.server_step import ServerStep
from fedbank.errors import ConfigError
from fedbank.membership.terms import DeadlineRule

DEFAULT_MAX_NORM = 1e3
"""Far above what a round of LoRA training does; ``fedbank.aggregation.norms`` derives the tight bound."""


@dataclass(frozen=True, slots=True)
class CampaignTerms:
    """What all parties of a campaign agreed on. ``weights`` are public, one per bank; ``plans`` plan digests.

    A round is committed when all banks have sent their updates, or at its deadline if ``quorum`` of them have
    (``None``: all). Without a ``deadline`` it waits. Below the quorum it is tried again, ``max_attempts`` times in all.
    An update whose L2 norm is above that of its own bank in ``norm_bounds`` (``max_update_norm`` for a bank without
    one) is refused. ``consortium`` and ``roster_digest`` (of the roster that the campaign started with) are signed with
    everything that travels.
    """

    campaign: str
    adapter: AdapterSpec
    rule: str
    server_step: ServerStep
    num_rounds: int
    num_local_steps: int
    weights: Mapping[str, float]
    plans: Mapping[str, str]
    consortium: str = "simulation"
    roster_digest: str = ""
    quorum: int | None = None
    deadline: DeadlineRule | None = None
    max_attempts: int = 1
    max_update_norm: float = DEFAULT_MAX_NORM
    norm_bounds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.weights or not all(0 < weight < math.inf for weight in self.weights.values()):
            raise ConfigError(f"Expected a positive weight for every bank, got {dict(self.weights)}.")
        if self.plans.keys() != self.weights.keys():
            raise ConfigError(f"Expected a plan of each of {sorted(self.weights)}, got those of {sorted(self.plans)}.")
        if self.quorum is not None and not 1 <= self.quorum <= len(self.weights):
            raise ConfigError(f"Expected a quorum from 1 to the {len(self.weights)} banks, got {self.quorum}.")
        if self.max_attempts < 1 or not self.max_update_norm > 0:
            raise ConfigError(
                f"Expected at least one attempt and a positive norm, got {self.max_attempts}, {self.max_update_norm}."
            )
        if not all(bank in self.weights and bound > 0 for bank, bound in self.norm_bounds.items()):
            raise ConfigError(f"Expected positive norms of {sorted(self.weights)}, got {dict(self.norm_bounds)}.")

    @property
    def context(self) -> dict[str, str]:
        """What every envelope of the campaign is signed for."""
        return {"consortium": self.consortium, "campaign": self.campaign, "roster": self.roster_digest}

    def max_norm(self, bank: str) -> float:
        """The L2 norm that no update of ``bank`` may exceed."""
        return self.norm_bounds.get(bank, self.max_update_norm)

    def needed(self, num_active: int) -> int:
        """Updates that a round needs while ``num_active`` of its banks are members.

        Where all have to be in, a bank that was revoked is not waited for.
        """
        return max(1, num_active) if self.quorum is None else self.quorum
