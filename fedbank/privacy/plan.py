"""The one public object from which sampler, clipper, noise and the accountant's event are derived.

A plan holds public values only (``fedbank.privacy.numbers``); data are arguments of its methods. ``PrivacyPlan``
protects customers, ``UnprotectedPlan`` trains on the same samples without any protection and says so wherever it is
printed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from fedbank.privacy.clipping import ClippedSum, clip_and_sum
from fedbank.privacy.noise import RandomStream, add_gaussian
from fedbank.privacy.numbers import Guarantees, PlanNumbers, unprotected_digest
from fedbank.privacy.sampling import MOST_STEPS, Sampling, declared_size

__all__ = [
    "MOST_STEPS",
    "Guarantees",
    "PrivacyPlan",
    "Sampling",
    "TrainingPlan",
    "UnprotectedPlan",
    "declared_size",
]


class TrainingPlan(Protocol):
    """What local training needs to know of a plan, protected or not."""

    @property
    def sampling(self) -> Sampling:
        """Who takes part in a step."""

    @property
    def private(self) -> bool:
        """Whether what comes out of ``release`` is differentially private."""

    def clip(self, grads_UP: Sequence[Tensor]) -> ClippedSum:
        """The sum over units of their bounded gradients; ``grads_UP`` has one (U, *shape) tensor per parameter."""

    def release(self, total: ClippedSum, stream: RandomStream) -> tuple[Tensor, ...]:
        """The mean gradient that one step may use, from the sum over all units of its sample."""

    def digest(self) -> str:
        """SHA-256 of the plan's public values, hexadecimal."""

    def guarantee(self) -> str:
        """The promise to a customer in one sentence."""


@dataclass(frozen=True, slots=True)
class PrivacyPlan(PlanNumbers):
    """The mechanism of a plan's numbers: what clips, adds the noise and divides."""

    @property
    def private(self) -> bool:
        """True: what ``release`` returns is differentially private."""
        return True

    def clip(self, grads_UP: Sequence[Tensor]) -> ClippedSum:
        """Per-unit clipping to ``clip_norm``, summed; U may be 0: the sum is then zero."""
        return clip_and_sum(grads_UP, self.clip_norm)

    def release(self, total: ClippedSum, stream: RandomStream) -> tuple[Tensor, ...]:
        """Add the noise once, round to the public grid, divide by the public expected batch size."""
        std = self.noise_multiplier * total.sensitivity
        noisy = add_gaussian(total.steps, std, self.clip_norm / self.grid_steps, stream, step=total.step)
        return tuple(tensor / self.sampling.expected_batch_size for tensor in noisy)


@dataclass(frozen=True, slots=True)
class UnprotectedPlan:
    """Training without any privacy: same samples, no clipping, no noise."""

    sampling: Sampling

    @property
    def private(self) -> bool:
        """False: an update made under this plan can reveal the records it was made from."""
        return False

    def clip(self, grads_UP: Sequence[Tensor]) -> ClippedSum:
        """The plain sum; nothing bounds what one unit contributes."""
        return ClippedSum(tuple(grad.double().sum(dim=0) for grad in grads_UP), 1.0, math.inf)

    def release(self, total: ClippedSum, stream: RandomStream) -> tuple[Tensor, ...]:
        """The sum divided by the expected batch size; ``stream`` is not used."""
        return tuple(tensor.float() / self.sampling.expected_batch_size for tensor in total.tensors)

    def digest(self) -> str:
        """SHA-256 of the plan's public values, hexadecimal."""
        return unprotected_digest(self.sampling)

    def guarantee(self) -> str:
        """Says that there is none."""
        return "NONE: trained without differential privacy; the adapter can reveal individual customers' records."
