"""Signing keys of simulated parties: derived from the seed, so that anybody who repeats a run has them too.

A deployment has keys of its own (``SigningKey.generate``), which never leave their owner.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from flwr.app import Context

from fedbank.adapter.update import COORDINATOR
from fedbank.aggregation.terms import CampaignTerms
from fedbank.sealing.keys import SigningKey
from fedbank_client.seal import BankSeal
from fedbank_server.nodes import CoordinatorKeys
from fedbank_simulations.inline import PARTITION_ID


@lru_cache(maxsize=1024)
def signing_key(seed: int, name: str) -> SigningKey:
    """The key of the party ``name`` in the simulation with ``seed``."""
    return SigningKey.derived("simulation", seed, name)


def coordinator_keys(seed: int, banks: Iterable[str]) -> CoordinatorKeys:
    """What the simulated coordinator holds: all ``banks`` are active members."""
    public = {bank: signing_key(seed, bank).public for bank in banks}
    return CoordinatorKeys(signing_key(seed, COORDINATOR), public.get)


@dataclass(frozen=True, slots=True)
class SimulatedSeals:
    """Finds the seal of the bank that a node stands for, as ``OpenSimulatedBank`` finds the bank. Can be pickled."""

    seed: int
    banks: tuple[str, ...]
    context: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, seed: int, terms: CampaignTerms) -> "SimulatedSeals":
        """The seals of all banks of a campaign."""
        return cls(seed, tuple(sorted(terms.weights)), tuple(terms.context.items()))

    def __call__(self, context: Context) -> BankSeal:
        """The seal of the node that ``context`` belongs to."""
        bank = self.banks[int(context.node_config[PARTITION_ID])]
        coordinator = signing_key(self.seed, COORDINATOR).public
        return BankSeal(bank, signing_key(self.seed, bank), dict(self.context), coordinator)
