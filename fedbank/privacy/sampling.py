"""Poisson sampling of units, and of records inside a sampled unit: public values, and pure functions of variates."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedbank.errors import PrivacyError

MOST_STEPS = 2**20
"""Of a campaign; nobody executes as many."""


class UniformStream(Protocol):
    """Where uniform variates come from (``fedbank.privacy.noise.RandomStream``)."""

    def uniform(self, count: int) -> NDArray[np.float64]:
        """``count`` variates in [0, 1)."""


def poisson_sample(uniforms: NDArray[np.float64], sampling_prob: float) -> NDArray[np.int64]:
    """Indices of the units whose uniform variate falls below ``sampling_prob``.

    ``uniforms`` has one entry per unit in [0, 1). Every unit is in independently of all others, so an empty
    sample is a valid sample: it must be trained on (as a zero sum), noised and charged like any other.
    """
    return np.flatnonzero(uniforms < sampling_prob)


def choose_records(uniforms: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """``count`` distinct records of one unit (all of them if it has fewer), uniformly; sorted.

    ``uniforms`` has one entry per record of the unit.
    """
    if len(uniforms) <= count:
        return np.arange(len(uniforms))
    return np.sort(np.argpartition(uniforms, count)[:count])


@dataclass(frozen=True, slots=True)
class Sampling:
    """Who takes part in a step. Public.

    ``sampling_prob`` is the chance of each unit to be in a step; ``expected_batch_size`` the public divisor of
    the sum (never the actual number); a sampled unit contributes the mean over at most
    ``records_per_customer`` of its records; ``num_steps`` steps in the whole campaign.
    """

    sampling_prob: float
    expected_batch_size: float
    records_per_customer: int
    num_steps: int

    def __post_init__(self) -> None:
        if not 0 < self.sampling_prob <= 1:
            raise PrivacyError(f"Expected a sampling probability in (0, 1], got {self.sampling_prob}.")
        sound = (
            0 < self.expected_batch_size < math.inf
            and type(self.records_per_customer) is int
            and self.records_per_customer >= 1
            and type(self.num_steps) is int
            and 1 <= self.num_steps <= MOST_STEPS
        )
        if not sound:
            raise PrivacyError(
                "Expected a positive expected batch size, whole records per customer and from 1 to "
                f"{MOST_STEPS} steps, got {self.expected_batch_size}, {self.records_per_customer} and {self.num_steps}."
            )

    @classmethod
    def for_population(cls, customers: int, batch: int, records_per_customer: int, num_steps: int) -> "Sampling":
        """Sampling of about ``batch`` of ``customers``, from the *declared* size (see ``declared_size``)."""
        declared = declared_size(customers)
        return cls(min(1.0, batch / declared), float(min(batch, declared)), records_per_customer, num_steps)

    def draw(self, records_per_unit: NDArray[np.int64], stream: UniformStream) -> list[tuple[int, NDArray[np.int64]]]:
        """One step's sample: the units that are in, each with the numbers of its chosen records.

        ``records_per_unit`` (U,) is private, and so is what is returned.
        """
        units = poisson_sample(stream.uniform(len(records_per_unit)), self.sampling_prob)
        return [
            (int(unit), choose_records(stream.uniform(int(records_per_unit[unit])), self.records_per_customer))
            for unit in units
        ]


def declared_size(customers: int) -> int:
    """The public customer count of a bank: its true count rounded down to two significant digits.

    Rounding down errs towards a larger sampling probability, hence more noise, never less.
    """
    if customers < 1:
        raise PrivacyError("Expected at least one customer, got none. Give the bank data or leave it out.")
    scale: int = 10 ** max(0, len(str(customers)) - 2)
    return customers // scale * scale
