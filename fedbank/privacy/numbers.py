"""The public numbers of a privacy plan: their ranges, what they cost, their file. No mechanism, hence no torch.

Banks build the mechanism on them (``fedbank.privacy.plan.PrivacyPlan``); the coordinator holds them against the terms
of a campaign.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Self

from fedbank.errors import PrivacyError
from fedbank.privacy.accounting import (
    ADD_OR_REMOVE_ONE,
    LEAST_DELTA,
    REPLACE_ONE,
    PrivacyEvent,
    compute_epsilon,
    round_up,
)
from fedbank.privacy.sampling import Sampling, declared_size

_FORMAT = "fedbank-plan/2"
_UNITS = ("customer", "record")
_MAX_GRID_STEPS = 2**24
"""Released values are fp32: with more steps per clip norm they would not lie on the grid."""
_MIN_NOISE_MULTIPLIER, _MAX_NOISE_MULTIPLIER = 0.2, 1e4
_CALIBRATED_TO = 2e-3
"""Relative: ``_calibrate`` stops at 1e-3, and rounds up to 1e-4, which is 5e-4 of the least noise."""
_LEAST_CLIP_NORM, _MOST_CLIP_NORM = 1e-6, 1e6


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
class PlanNumbers:
    """What (epsilon, delta)-differential privacy for every unit of one bank, against everybody outside it, rests on.

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
    ) -> Self:
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
    ) -> Self:
        """The plan with the least noise whose whole campaign costs at most ``target_epsilon``.

        ``delta`` defaults to min(1e-5, N^-1.1) with N the declared number of ``customers`` (or records, if they are
        the ``unit``).
        """
        if not target_epsilon > 0 or not math.isfinite(target_epsilon):
            raise PrivacyError(
                f"Expected privacy.epsilon to be a positive number, got {target_epsilon}. "
                "8 is a usual value, smaller protects more; privacy=off trains without any protection."
            )
        chosen_delta = delta_for(customers, delta)
        noise_multiplier = _calibrate(sampling.sampling_prob, sampling.num_steps, target_epsilon, chosen_delta)
        return cls(sampling, noise_multiplier, clip_norm, chosen_delta, target_epsilon, unit)

    def has_least_noise(self) -> bool:
        """Whether the noise is what ``calibrate`` gives: 0.2 % less of it would cost more than the promise."""
        less = max(_MIN_NOISE_MULTIPLIER, (1 - _CALIBRATED_TO) * self.noise_multiplier)
        if less >= self.noise_multiplier:
            return True
        event = PrivacyEvent(self.sampling.sampling_prob, less, self.sampling.num_steps)
        return compute_epsilon([event], self.delta) > self.target_epsilon

    def event(self, num_steps: int) -> PrivacyEvent:
        """The accountant's event of ``num_steps`` executed steps."""
        return PrivacyEvent(self.sampling.sampling_prob, self.noise_multiplier, num_steps)

    def epsilon(self, num_steps: int | None = None) -> float:
        """Epsilon at ``delta`` after ``num_steps`` steps (default: the whole campaign)."""
        return compute_epsilon([self.event(self.sampling.num_steps if num_steps is None else num_steps)], self.delta)

    def digest(self) -> str:
        """SHA-256 of the plan's public values, hexadecimal."""
        return _digest(_FORMAT, asdict(self))

    def to_json(self) -> str:
        """The plan as a file for people to read and for ``from_json``, with its digest."""
        return json.dumps({"format": _FORMAT, **asdict(self), "digest": self.digest()}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
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


def delta_for(customers: int, delta: float | None) -> float:
    """The delta of a plan for that many customers: ``delta``, or min(1e-5, N^-1.1) with N the declared number.

    Raises:
        PrivacyError: it is not below 1/N.
    """
    declared = declared_size(customers)
    chosen = min(1e-5, declared**-1.1) if delta is None else delta
    if chosen >= 1 / declared:
        raise PrivacyError(
            f"Expected privacy.delta below 1/{declared}, one over the number of customers, got {chosen}: it would "
            "allow to publish one customer whole. Leave privacy.delta empty to derive it."
        )
    return chosen


def unprotected_digest(sampling: Sampling) -> str:
    """SHA-256 of the public values of a plan without any privacy, hexadecimal."""
    return _digest("fedbank-plan-unprotected/1", {"sampling": asdict(sampling)})


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
