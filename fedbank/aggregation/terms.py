"""What the parties of a campaign agreed on before its first round."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from fedbank.adapter.state import AdapterSpec
from fedbank.aggregation.influence import capped_weights, noise_limited
from fedbank.aggregation.server_step import ServerStep
from fedbank.errors import ConfigError
from fedbank.membership.terms import DEFAULT_MAX_SHARE, DeadlineRule

DEFAULT_MAX_NORM = 1e3
"""Far above what a round of LoRA training does; ``fedbank.aggregation.norms`` derives the tight bound."""


@dataclass(frozen=True, slots=True)
class CampaignTerms:
    """What all parties of a campaign agreed on. ``weights`` are public, one per bank; ``plans`` plan digests.

    A round is committed when all banks have sent their updates, or at its deadline if ``quorum`` of them have
    (``None``: all). Without a ``deadline`` it waits. Below the quorum it is tried again, ``max_attempts`` times in all.
    An update whose L2 norm is above that of its own bank in ``norm_bounds`` (``max_update_norm`` for a bank without
    one) is refused. ``consortium`` and ``roster_digest`` (of the roster that the campaign started with) are signed with
    everything that travels. ``noise_norms`` are what noise alone makes of an update by each bank's public plan (absent:
    0), ``max_share`` is the most that a bank's update counts of the average (``fedbank.aggregation.influence`` has both
    rules).
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
    noise_norms: Mapping[str, float] = field(default_factory=dict)
    max_share: float = DEFAULT_MAX_SHARE

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
        if not all(0 <= norm < math.inf for norm in self.noise_norms.values()):
            raise ConfigError(f"Expected finite norms of the banks' noise, got {dict(self.noise_norms)}.")
        if not 0 < self.max_share <= 1:
            raise ConfigError(f"Expected max_share above 0 and at most 1, got {self.max_share}. 0.5 is usual.")

    @property
    def context(self) -> dict[str, str]:
        """What every envelope of the campaign is signed for."""
        return {"consortium": self.consortium, "campaign": self.campaign, "roster": self.roster_digest}

    def max_norm(self, bank: str) -> float:
        """The L2 norm that no update of ``bank`` may exceed."""
        return self.norm_bounds.get(bank, self.max_update_norm)

    def weights_of(self, banks: Collection[str]) -> dict[str, float]:
        """What the update of each of ``banks`` counts in a round of exactly these: nobody above ``max_share``."""
        limited = noise_limited({bank: self.weights[bank] for bank in banks}, self.noise_norms)
        return capped_weights(limited, self.max_share)

    def needed(self, num_active: int) -> int:
        """Updates that a round needs while ``num_active`` of its banks are members.

        Where all have to be in, a bank that was revoked is not waited for.
        """
        return max(1, num_active) if self.quorum is None else self.quorum
