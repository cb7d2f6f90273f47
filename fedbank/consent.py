"""Whether a bank's acceptance says what follows from the campaign's terms and the bank's declared size. No torch.

A bank chooses one number, its declared size, and may be off by 0.2 % in another, the noise multiplier. Everything else
has one right value, which is computed here and compared. Nothing else of what a bank wrote is ever used.
"""

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from fedbank.config.schema import TrainingConfig
from fedbank.errors import PrivacyError, UpdateError
from fedbank.privacy.numbers import PlanNumbers, delta_for, unprotected_digest
from fedbank.privacy.sampling import Sampling, declared_size
from fedbank.proposal import Acceptance, Proposal

MOST_CUSTOMERS = 10**9
"""The largest declared size."""
_MAX_PLAN = 4096
"""Characters of a plan's file; it has about 500."""


@dataclass(frozen=True, slots=True)
class Consent:
    """A bank's acceptance that was checked; ``plan`` are its plan's numbers, ``None`` without privacy."""

    acceptance: Acceptance
    plan: PlanNumbers | None


def agreed_sampling(training: TrainingConfig, customers: int, batch: int | None = None) -> Sampling:
    """Who takes part in the steps of a whole campaign, at a bank of ``customers`` (or records, if they are the unit).

    Simulations compare: with another expected ``batch`` than the terms'.
    """
    num_steps = training.rounds * training.local_steps
    return Sampling.for_population(
        customers, batch or training.expected_batch, training.records_per_customer, num_steps
    )


def read_acceptance(content: bytes, bank: str, proposal: Proposal) -> Consent:
    """The acceptance that ``bank`` signed for ``proposal``, checked.

    Raises:
        UpdateError: it is none, or says anything but what follows from the terms and the declared size.
    """
    acceptance = Acceptance.from_bytes(content)
    if acceptance.to_bytes() != content:
        raise UpdateError("Expected an acceptance as canonical JSON, got another spelling of one. It was not used.")
    return check_acceptance(acceptance, bank, proposal)


def check_acceptance(acceptance: Acceptance, bank: str, proposal: Proposal) -> Consent:
    """``acceptance`` as the consent of ``bank`` to ``proposal``; ``UpdateError`` naming the first value that is wrong.

    The plan's text has to be, byte for byte, the file of the plan that follows from the terms and the declared size.
    """
    size, privacy = acceptance.declared_size, proposal.terms.privacy
    if (acceptance.bank, acceptance.campaign) != (bank, proposal.campaign):
        raise UpdateError(
            f"Expected the consent of {bank} to {proposal.campaign}, got one of {_said(acceptance.bank)} to "
            f"{_said(acceptance.campaign)}. It was not used."
        )
    if type(size) is not int or not 1 <= size <= MOST_CUSTOMERS or size != declared_size(size):
        raise UpdateError(
            f"Expected a declared size from 1 to {MOST_CUSTOMERS}, rounded down to two digits, got {_said(size)}. It "
            "was not used."
        )
    try:
        sampling = agreed_sampling(proposal.terms.training, size)
        plan = _plan(acceptance, proposal, sampling) if privacy.enabled else None
    except PrivacyError as error:
        raise UpdateError(f"Expected a plan that keeps the campaign's terms, got another: {error}") from error
    _same("text of the plan", "" if plan is None else plan.to_json(), acceptance.plan)
    _same("plan_digest", unprotected_digest(sampling) if plan is None else plan.digest(), acceptance.plan_digest)
    _same("epsilon", privacy.epsilon, acceptance.epsilon)
    return Consent(acceptance, plan)


def _plan(acceptance: Acceptance, proposal: Proposal, sampling: Sampling) -> PlanNumbers:
    """The one plan that the terms allow for this sampling, with the noise that the bank says it adds."""
    privacy, said = proposal.terms.privacy, _fields(acceptance.plan)
    if privacy.epsilon is None or privacy.clip_norm is None:
        raise ValueError("privacy is on without epsilon or clip_norm; fedbank.config refuses this")
    _same_fields(asdict(sampling), said.get("sampling"))
    noise, delta = said.get("noise_multiplier"), delta_for(acceptance.declared_size, privacy.delta)
    if type(noise) is not float or not math.isfinite(noise):
        raise UpdateError(f"Expected a finite noise_multiplier in the plan, got {_said(noise)}. It was not used.")
    plan = PlanNumbers(sampling, noise, privacy.clip_norm, delta, privacy.epsilon, privacy.unit)
    _same_fields(asdict(plan), said)
    if not plan.has_least_noise():
        raise UpdateError(
            f"Expected the least noise that keeps epsilon {privacy.epsilon:g}, got the noise_multiplier {noise:g}, "
            "which is more. It was not used: calibrate the plan again."
        )
    return plan


def _fields(text: str) -> dict[str, Any]:
    """What a plan's text says, as it stands: for comparing only."""
    try:
        fields = json.loads(text) if len(text) <= _MAX_PLAN else None
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise UpdateError(f"Expected a plan that can be read, got {_said(text)}. It was not used.")
    return fields


def _same_fields(wanted: dict[str, object], said: object) -> None:
    """``UpdateError`` naming the first of the ``wanted`` fields that has another value, or another type of it."""
    values = said if isinstance(said, dict) else {}
    for name, value in wanted.items():
        _same(name, value, values.get(name))


def _same(name: str, wanted: object, got: object) -> None:
    if type(got) is not type(wanted) or got != wanted:
        raise UpdateError(
            f"Expected {name} {_said(wanted)}, as it follows from the campaign's terms and the declared size, got "
            f"{_said(got)}. It was not used: calibrate the plan again."
        )


def _said(value: object) -> str:
    """What somebody else wrote, for a sentence: short and printable."""
    if value is None or isinstance(value, bool | int | float | str):
        return f"{value!r:.60}"
    return f"a {type(value).__name__}"
