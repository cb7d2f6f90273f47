"""The one public object from which sampler, clipper, noise and the accountant's event are derived.

A plan holds public values only; data are arguments of its methods. ``PrivacyPlan`` protects customers,
``UnprotectedPlan`` trains on the same samples without any protection and says so wherever it is printed.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedbank.errors import PrivacyError
from fedbank.privacy.accounting import (
    ADD_OR_REMOVE_ONE,
    LEAST_DELTA,
    REPLACE_ONE,
    PrivacyEvent,
    compute_epsilon,
    round_up,
)
from fedbank.privacy.clipping import ClippedSum, clip_and_sum
from fedbank.privacy.noise import RandomStream, add_gaussian
from fedbank.privacy.sampling import choose_records, poisson_sample

_FORMAT = "fedbank-plan/2"
_UNITS = ("customer", "record")
_MAX_GRID_STEPS = 2**24
"""Released values are fp32: with more steps per clip norm they would not lie on the grid."""
_MIN_NOISE_MULTIPLIER, _MAX_NOISE_MULTIPLIER = 0.2, 1e4


_LEAST_CLIP_NORM, _MOST_CLIP_NORM = 1e-6, 1e6
MOST_STEPS = 2**20
"""Of a campaign; nobody executes as many."""


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

    def draw(self, records_per_unit: NDArray[np.int64], stream: RandomStream) -> list[tuple[int, NDArray[np.int64]]]:
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
class Guarantees:
    """What one plan promises to whom: epsilons at the plan's delta, of everything that leaves the bank.

    ``record``: one record of a customer whose other records stay. ``customer``: one customer with all records, at one
    bank, at two or at three banks that train under the same plan; ``None`` if the plan protects single records only.
    ``coalition``: the customer (or record) against the coordinator and all other banks that pool what they know.
    """

    record: float
    customer: float | None
    customer_at_two_banks: float | None
    customer_at_three_banks: float | None
    coalition: float


@dataclass(frozen=True, slots=True)
class PrivacyPlan:
    """(epsilon, delta)-differential privacy for every unit of one bank, against everybody outside it.

    Neighbouring data sets differ by adding or removing one ``unit``: a customer with all of their records, or
    (``unit="record"``, a weaker promise) one record. Every bank adds the full noise (trust mode ``silo``), so the
    promise holds against the coordinator and the other banks together. Released sums lie on a grid of
    ``grid_steps`` steps per clip norm. A plan whose steps cost more than ``target_epsilon`` cannot be constructed.
    """

    sampling: Sampling
    noise_multiplier: float
    clip_norm: float
    delta: float
    target_epsilon: float
    unit: str = "customer"
    neighbouring_relation: str = ADD_OR_REMOVE_ONE
    trust_mode: str = "silo"
    grid_steps: int = 2**20

    def __post_init__(self) -> None:
        _check_noise(self.noise_multiplier)
        if not _LEAST_CLIP_NORM <= self.clip_norm <= _MOST_CLIP_NORM:  # beyond, gradients overflow or vanish in fp32
            raise PrivacyError(
                f"Expected a clip norm from {_LEAST_CLIP_NORM:g} to {_MOST_CLIP_NORM:g}, got {self.clip_norm}. Set "
                "privacy.clip_norm=1.0."
            )
        if not LEAST_DELTA <= self.delta < 1:
            raise PrivacyError(
                f"Expected delta from {LEAST_DELTA:g} to below 1, got {self.delta}. Leave privacy.delta empty to "
                "derive it."
            )
        if self.unit not in _UNITS or (self.neighbouring_relation, self.trust_mode) != (ADD_OR_REMOVE_ONE, "silo"):
            raise PrivacyError(
                "Expected unit 'customer' or 'record', relation 'add_or_remove_one' and trust mode 'silo', got "
                f"{self.unit!r}, {self.neighbouring_relation!r} and {self.trust_mode!r}."
            )
        if self.unit == "record" and self.sampling.records_per_customer != 1:
            raise PrivacyError(
                "Expected one record per sampled unit where the unit is a record, got "
                f"{self.sampling.records_per_customer}. Set training.records_per_customer=1."
            )
        if type(self.grid_steps) is not int or not 1 <= self.grid_steps <= _MAX_GRID_STEPS:
            raise PrivacyError(f"Expected from 1 to {_MAX_GRID_STEPS} grid steps per clip norm, got {self.grid_steps}.")
        if not self.epsilon() <= self.target_epsilon:
            raise PrivacyError(
                f"Expected a plan that keeps its promise of epsilon {self.target_epsilon}, got one that costs "
                f"{round_up(self.epsilon(), 4)}. Calibrate the plan again; never edit its numbers."
            )

    @classmethod
    def with_noise(
        cls, sampling: Sampling, noise_multiplier: float, clip_norm: float, delta: float, unit: str = "customer"
    ) -> "PrivacyPlan":
        """The plan with a given noise, which promises just what it costs."""
        _check_noise(noise_multiplier)
        costs = compute_epsilon([PrivacyEvent(sampling.sampling_prob, noise_multiplier, sampling.num_steps)], delta)
        return cls(sampling, noise_multiplier, clip_norm, delta, round_up(costs, 4), unit)

    @classmethod
    def calibrate(
        cls,
        target_epsilon: float,
        delta: float | None,
        sampling: Sampling,
        clip_norm: float,
        customers: int,
        unit: str = "customer",
    ) -> "PrivacyPlan":
        """The plan with the least noise whose whole campaign costs at most ``target_epsilon``.

        ``delta`` defaults to min(1e-5, N^-1.1) with N the declared number of ``customers`` (or records, if they are
        the ``unit``).
        """
        if not target_epsilon > 0 or not math.isfinite(target_epsilon):
            raise PrivacyError(
                f"Expected privacy.epsilon to be a positive number, got {target_epsilon}. "
                "8 is a usual value, smaller protects more; privacy=off trains without any protection."
            )
        chosen_delta = min(1e-5, declared_size(customers) ** -1.1) if delta is None else delta
        if chosen_delta >= 1 / declared_size(customers):
            raise PrivacyError(
                f"Expected privacy.delta below 1/{declared_size(customers)}, one over the number of customers, got "
                f"{chosen_delta}: it would allow to publish one customer whole. Leave privacy.delta empty to derive it."
            )
        noise_multiplier = _calibrate(sampling.sampling_prob, sampling.num_steps, target_epsilon, chosen_delta)
        return cls(sampling, noise_multiplier, clip_norm, chosen_delta, target_epsilon, unit)

    @property
    def private(self) -> bool:
        """True: what ``release`` returns is differentially private."""
        return True

    def event(self, num_steps: int) -> PrivacyEvent:
        """The accountant's event of ``num_steps`` executed steps."""
        return PrivacyEvent(self.sampling.sampling_prob, self.noise_multiplier, num_steps)

    def epsilon(self, num_steps: int | None = None) -> float:
        """Epsilon at ``delta`` after ``num_steps`` steps (default: the whole campaign)."""
        return compute_epsilon([self.event(self.sampling.num_steps if num_steps is None else num_steps)], self.delta)

    def clip(self, grads_UP: Sequence[Tensor]) -> ClippedSum:
        """Per-unit clipping to ``clip_norm``, summed; U may be 0: the sum is then zero."""
        return clip_and_sum(grads_UP, self.clip_norm)

    def release(self, total: ClippedSum, stream: RandomStream) -> tuple[Tensor, ...]:
        """Add the noise once, round to the public grid, divide by the public expected batch size."""
        std = self.noise_multiplier * total.sensitivity
        noisy = add_gaussian(total.steps, std, self.clip_norm / self.grid_steps, stream, step=total.step)
        return tuple(tensor / self.sampling.expected_batch_size for tensor in noisy)

    def digest(self) -> str:
        """SHA-256 of the plan's public values, hexadecimal."""
        return _digest(_FORMAT, asdict(self))

    def to_json(self) -> str:
        """The plan as a file for people to read and for ``from_json``, with its digest."""
        return json.dumps({"format": _FORMAT, **asdict(self), "digest": self.digest()}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "PrivacyPlan":
        """The plan of a file; ``PrivacyError`` if it is not one, or was edited since it was written."""
        try:
            fields = json.loads(text)
            claimed, written = fields.pop("digest"), fields.pop("format")
            plan = cls(**fields | {"sampling": Sampling(**fields["sampling"])})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise PrivacyError(
                f"Expected a plan file of format {_FORMAT}, got something else ({type(error).__name__}). "
                "Ask for the plan again; never write one by hand."
            ) from error
        if written != _FORMAT or plan.digest() != claimed:
            raise PrivacyError(
                f"Expected an unedited plan file of format {_FORMAT}, got one whose digest does not belong to its "
                "numbers. Calibrate a new plan; never edit one."
            )
        return plan

    def guarantees(self) -> Guarantees:
        """All promises of the plan, for all of its steps.

        One record more or fewer changes the clipped gradient of its customer, who stays: that is replacing one unit.
        At k banks a customer faces k campaigns. A coalition of the other banks can subtract what they sent
        themselves; the noise of this bank's own update is whole, so it gains nothing.
        """
        steps, own = self.sampling.num_steps, self.epsilon()
        if self.unit == "record":
            return Guarantees(own, None, None, None, own)
        record = compute_epsilon([self.event(steps)], self.delta, REPLACE_ONE)
        return Guarantees(record, own, self.epsilon(2 * steps), self.epsilon(3 * steps), own)

    def guarantee(self) -> str:
        """The promise in one sentence, for people."""
        steps, delta = self.sampling.num_steps, _delta_up(self.delta)
        parties = "against the coordinator and all other banks together"
        promise = self.guarantees()
        if promise.customer is None or promise.customer_at_two_banks is None or promise.customer_at_three_banks is None:
            return (
                "FOR SINGLE RECORDS ONLY: whether or not any one record was used, everything that leaves the bank "
                f"during the {steps} training steps is distributed almost the same (epsilon = "
                f"{round_up(promise.record):.2f}, delta = {delta}, add or remove one record, {parties}); a customer "
                "with several records is protected less, the less the more records there are."
            )
        return (
            "Whether or not any one customer's records were used, all of them together, everything that leaves "
            f"the bank during the {steps} training steps is distributed almost the same "
            f"(epsilon = {round_up(promise.customer):.2f}, delta = {delta}, add or remove one customer, {parties}); "
            f"for a customer of two such banks epsilon is {round_up(promise.customer_at_two_banks):.2f}, of three "
            f"{round_up(promise.customer_at_three_banks):.2f}, and for one record more or fewer of a customer who "
            f"stays {round_up(promise.record):.2f}."
        )


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
        return tuple(tensor / self.sampling.expected_batch_size for tensor in total.tensors)

    def digest(self) -> str:
        """SHA-256 of the plan's public values, hexadecimal."""
        return _digest("fedbank-plan-unprotected/1", asdict(self))

    def guarantee(self) -> str:
        """Says that there is none."""
        return "NONE: trained without differential privacy; the adapter can reveal individual customers' records."


def _check_noise(noise_multiplier: float) -> None:
    if not _MIN_NOISE_MULTIPLIER <= noise_multiplier <= _MAX_NOISE_MULTIPLIER:
        raise PrivacyError(
            f"Expected a noise multiplier from {_MIN_NOISE_MULTIPLIER} (less protects nobody) to "
            f"{_MAX_NOISE_MULTIPLIER:g}, got {noise_multiplier}."
        )


def _digest(label: str, values: dict[str, object]) -> str:
    return hashlib.sha256((label + json.dumps(values, sort_keys=True)).encode()).hexdigest()


def _delta_up(delta: float) -> str:
    """Delta with two digits, never below its value."""
    exponent = math.floor(math.log10(delta))
    return f"{round_up(delta / 10.0**exponent, 1) * 10.0**exponent:.1e}"


@lru_cache(maxsize=256)
def _calibrate(sampling_prob: float, num_steps: int, target_epsilon: float, delta: float) -> float:
    """The smallest noise multiplier, to 0.1 % and rounded up, with epsilon at most the target."""

    def epsilon(noise_multiplier: float) -> float:
        return compute_epsilon([PrivacyEvent(sampling_prob, noise_multiplier, num_steps)], delta)

    high = 1.0
    while epsilon(high) > target_epsilon:
        high *= 2
        if high > _MAX_NOISE_MULTIPLIER:
            raise PrivacyError(
                f"Expected a privacy.epsilon that noise can reach, got {target_epsilon} for {num_steps} steps at "
                f"sampling probability {sampling_prob:.3g} and delta {delta:.1e}. "
                "Raise privacy.epsilon, or lower training.rounds or training.local_steps."
            )
    # With less noise than 0.2 the loss distribution needs gigabytes, and nobody is protected: it is not offered.
    low = max(_MIN_NOISE_MULTIPLIER, high / 2 if high > 1.0 else 0.0)
    if epsilon(low) <= target_epsilon:
        return low
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if epsilon(middle) <= target_epsilon else (middle, high)
    return math.ceil(high * 1e4) / 1e4
