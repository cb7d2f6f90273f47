"""Customers whose participation is decided by coins, inside one bank of a simulated consortium.

M candidates. The bank's plan is made from its customer count before the coins: who takes part changes nothing public.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedbank.adapter.state import Tensors
from fedbank.data.encode import EncodedUnits
from fedbank.errors import ConfigError
from fedbank.privacy.noise import RandomStream
from fedbank.training.evaluate import score_records
from fedbank_client.terms import training_plan
from fedbank_simulations.campaigns import FEDERATED, NONPRIVATE, Member, members_of
from fedbank_simulations.resident import Resident
from fedbank_simulations.scenario import pool

MIN_CANDIDATES = 20


@dataclass(frozen=True, slots=True, eq=False)
class Audience:
    """The candidates of ``bank``, which of them take part, and its ``others``, who always do."""

    bank: str
    others: EncodedUnits
    candidates: EncodedUnits
    included: NDArray[np.bool_]

    def members(self, home: Resident, *, protected: bool) -> dict[str, Member]:
        """Every bank with its data and plan; of the candidates those that are included take part."""
        config = home.config
        members = members_of(FEDERATED if protected else NONPRIVATE, config, home.scenario)
        chosen = choose(self.candidates, np.flatnonzero(self.included))
        expected = self.others.num_units + self.candidates.num_units // 2
        plan = training_plan(config.privacy, config.training, expected, protected=protected)
        return members | {self.bank: Member(pool([self.others, chosen]), plan)}

    def losses(self, home: Resident, adapter: Tensors) -> NDArray[np.float64]:
        """(M,) mean nats per answer token over each candidate's records, under ``adapter``."""
        home.model.write(adapter)
        nll_R, _ = score_records(home.model, self.candidates, device=home.base.device)
        starts = self.candidates.unit_starts
        means: NDArray[np.float64] = np.add.reduceat(nll_R, starts[:-1]) / np.diff(starts)
        return means


def pick_bank(home: Resident, name: str | None) -> str:
    """The bank of that name; by default the one with the fewest customers, each of whom takes part most often."""
    banks = home.scenario.banks
    if name is None:
        return min(banks, key=lambda bank: banks[bank].train.num_units)
    if name not in banks:
        raise ConfigError(f"Expected --bank to name one of {', '.join(banks)}, got {name!r}.")
    return name


def flip(seed: int, purpose: str, count: int) -> NDArray[np.bool_]:
    """``count`` fair coins that belong to a simulation's seed."""
    return RandomStream.derived(seed, f"audit/{purpose}", count).uniform(count) < 0.5


def choose(data: EncodedUnits, units: Sequence[int] | NDArray[np.int64]) -> EncodedUnits:
    """Some of the customers, in the order given."""
    owned = [np.arange(data.unit_starts[unit], data.unit_starts[unit + 1]) for unit in units]
    records = np.concatenate([np.zeros(0, np.int64), *owned])
    tokens = [data.record(int(record)) for record in records]
    return EncodedUnits(
        np.concatenate([np.zeros(0, np.int32), *tokens]),
        np.cumsum([0, *map(len, tokens)]).astype(np.int64),
        data.answer_offsets[records],
        np.cumsum([0, *map(len, owned)]).astype(np.int64),
        data.end_token,
    )
