"""A campaign's rounds as a state machine: values in, values out; no network, no file, no clock."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedbank.adapter.state import AdapterSpec, Tensors, digest
from fedbank.adapter.update import Update
from fedbank.aggregation.rules import average, refactor
from fedbank.aggregation.server_step import ServerStep, StepState, apply_step
from fedbank.errors import UpdateError


@dataclass(frozen=True, slots=True)
class CampaignTerms:
    """What all parties of a campaign agreed on. ``weights`` are public, one per bank; ``plans`` plan digests."""

    campaign: str
    adapter: AdapterSpec
    rule: str
    server_step: ServerStep
    num_rounds: int
    num_local_steps: int
    weights: Mapping[str, float]
    plans: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class GlobalState:
    """The committed result of ``round`` rounds: the shared adapter and the server step's moments."""

    round: int
    adapter: Mapping[str, NDArray[np.float32]]
    step: StepState = field(default_factory=StepState)

    def digest(self) -> str:
        """SHA-256 of the adapter."""
        return digest(self.adapter)


class Round:
    """Collects one update per bank, then commits. Admits only what belongs to this round."""

    def __init__(self, terms: CampaignTerms, state: GlobalState) -> None:
        self._terms = terms
        self._state = state
        self._base_digest = state.digest()
        self._updates: dict[str, Update] = {}
        self.number = state.round + 1

    @property
    def missing(self) -> set[str]:
        """Banks whose update has not been admitted."""
        return set(self._terms.weights) - set(self._updates)

    def admit(self, update: Update) -> None:
        """Take an update in; ``UpdateError`` if it is not a first update of a member to this very round."""
        expected = (self._terms.campaign, self.number, self._base_digest, self._terms.num_local_steps)
        got = (update.campaign, update.round, update.base_digest, update.num_steps)
        if update.bank not in self._terms.weights:
            raise UpdateError(f"Expected an update of a member, got one of {update.bank!r}. It was not used.")
        if update.bank in self._updates:
            raise UpdateError(
                f"Expected one update of {update.bank} in round {self.number}, got a second. It was not used."
            )
        if got != expected or update.plan_digest != self._terms.plans[update.bank]:
            raise UpdateError(
                f"Expected an update of {update.bank} to campaign, round, base adapter and steps {expected} "
                f"under its agreed plan, got {got}. It was not used."
            )
        self._updates[update.bank] = update

    def commit(self) -> tuple[GlobalState, Tensors]:
        """The next global state and the average change; ``ValueError`` while updates are missing.

        Banks are summed in name order, whatever order they arrived in: the result does not depend on it.
        """
        if self.missing:
            raise ValueError(f"updates of {sorted(self.missing)} are missing")
        banks = sorted(self._updates)
        change = average([self._updates[b].tensors for b in banks], [self._terms.weights[b] for b in banks])
        adapter, step = apply_step(self._terms.server_step, self._state.step, self._state.adapter, change)
        if self._terms.rule == "fedsvd":
            adapter, rotations = refactor(self._terms.adapter, adapter)
            step = step.rotated(rotations)
        return GlobalState(self.number, adapter, step), change
