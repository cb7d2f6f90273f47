"""Canary gradients in one real training run: the production step, with m made-up customers beside the real ones.

Each canary has a gradient of its own direction, far longer than the clip norm, and takes part in the run or not by
a coin. Whoever sees every released step and knows the real customers' gradients scores a canary by what was released
in its direction. P trainable parameters, flattened; M canaries.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedbank.adapter.lora import AdaptedModel
from fedbank.adapter.state import Tensors
from fedbank.audit.bounds import (
    Scores,
    count_guesses,
    gaussian_fit,
    gaussian_from_rates,
    one_run,
    one_run_gaussian,
    rate_bounds,
)
from fedbank.audit.curves import bound_epsilon
from fedbank.audit.finding import ANY_DEPENDENCE, INDEPENDENT, Bound, Finding
from fedbank.audit.mechanism import MIDPOINT, log_likelihood_ratio
from fedbank.data.encode import EncodedUnits
from fedbank.errors import PrivacyError
from fedbank.privacy.accounting import PrivacyEvent
from fedbank.privacy.clipping import ClippedSum
from fedbank.privacy.noise import RandomStream
from fedbank.privacy.plan import PrivacyPlan, Sampling
from fedbank.training.local import LocalSettings, train_round

_LENGTH = 1e3
"""Of a canary's gradient, in clip norms: without clipping it would stand out by as much."""
_AT_ONCE = 128
_GUESS_SHARE = 0.1
"""Of the canaries, in one-run bounds: fixed before any scores are seen; the strongest share for Gaussian scores."""


@dataclass(frozen=True, slots=True, eq=False)
class CanaryPlan:
    """A ``TrainingPlan`` that is ``inner`` with canaries among the customers; every decision stays with ``inner``.

    ``coordinates`` (in the flattened parameters) are those of the canaries that take part. What an adversary sees is
    appended to ``seen``: of each step the released sum less the real customers' clipped sum, (P,), in clip norms.
    """

    inner: PrivacyPlan
    coordinates: NDArray[np.int64]
    seen: list[NDArray[np.float64]]

    @property
    def sampling(self) -> Sampling:
        """That of the real customers, and of the canaries."""
        return self.inner.sampling

    @property
    def private(self) -> bool:
        """As ``inner``."""
        return self.inner.private

    def clip(self, grads_UP: Sequence[Tensor]) -> ClippedSum:
        """As ``inner``."""
        return self.inner.clip(grads_UP)

    def release(self, total: ClippedSum, stream: RandomStream) -> tuple[Tensor, ...]:
        """Add the sampled canaries, each clipped on its own, and release as ``inner`` does."""
        known = _flat(total.tensors)
        sampled = [unit for unit, _ in self.sampling.draw(np.ones(len(self.coordinates), np.int64), stream)]
        for first in range(0, len(sampled), _AT_ONCE):
            total = total.plus(self.clip(self._gradients(sampled[first : first + _AT_ONCE], total.tensors)))
        released = self.inner.release(total, stream)
        summed = _flat(released) * self.sampling.expected_batch_size
        self.seen.append((summed - known) / self.inner.clip_norm)
        return released

    def digest(self) -> str:
        """As ``inner``."""
        return self.inner.digest()

    def guarantee(self) -> str:
        """As ``inner``."""
        return self.inner.guarantee()

    def _gradients(self, units: list[int], like: tuple[Tensor, ...]) -> list[Tensor]:
        sizes = [tensor.numel() for tensor in like]
        flat = torch.zeros(len(units), sum(sizes), device=like[0].device)
        flat[torch.arange(len(units)), torch.from_numpy(self.coordinates[units])] = _LENGTH * self.inner.clip_norm
        blocks = torch.split(flat, sizes, dim=1)
        return [block.reshape(-1, *tensor.shape) for block, tensor in zip(blocks, like, strict=True)]


@dataclass(frozen=True, slots=True, eq=False)
class TrainingRun:
    """What one bank would train: its model and data, from the adapter ``start``."""

    model: AdaptedModel
    data: EncodedUnits
    settings: LocalSettings
    start: Tensors
    device: torch.device


def audit_gradient(
    run: TrainingRun,
    plan: PrivacyPlan,
    *,
    canaries: int,
    confidence: float,
    stream: RandomStream,
) -> Finding:
    """Train the plan's steps with ``canaries`` in or out by coins, and bound epsilon from their scores.

    ``stream`` supplies coins, directions, samples and noise.

    Raises:
        PrivacyError: fewer trainable parameters than canaries.
    """
    size = sum(parameter.numel() for parameter in run.model.parameters)
    if not 2 <= canaries <= size:
        raise PrivacyError(
            f"Expected from 2 to {size} canaries, one trainable parameter for each, got {canaries}. "
            "Lower --canaries or raise adapter.rank."
        )
    coordinates = np.argsort(stream.uniform(size))[:canaries]
    included = stream.uniform(canaries) < 0.5
    watched = CanaryPlan(plan, coordinates[included], [])
    settings = replace(run.settings, num_steps=plan.sampling.num_steps)
    train_round(run.model, run.data, watched, settings, run.start, stream=stream, device=run.device)
    event = plan.event(len(watched.seen))
    projections = np.stack([step[coordinates] for step in watched.seen], axis=1)
    scores = log_likelihood_ratio(projections, event)
    bounds = canary_bounds(scores, included, event, plan.delta, confidence)
    figures: dict[str, float | int | str] = {
        "canaries": canaries,
        "sampling_prob": event.sampling_prob,
        "noise_multiplier": event.noise_multiplier,
        "steps": event.num_steps,
    }
    name = f"{canaries} canary gradients, {event.num_steps} steps, q = {event.sampling_prob:g}"
    claimed = plan.epsilon(event.num_steps)
    return Finding(name, claimed, plan.delta, bounds, scores[included], scores[~included], figures)


def canary_bounds(
    scores: Scores, included: NDArray[np.bool_], event: PrivacyEvent, delta: float, confidence: float
) -> tuple[Bound, ...]:
    """Every bound on M log likelihood ratios, the one that decides first.

    Where everybody takes part in every step the ratios are normal and the fit is exact. Under sampling they are not:
    there the plan's own trade-off curve decides, at a threshold chosen on a fifth of the canaries.
    """
    scores_I, scores_O = scores[included], scores[~included]
    guesses = max(2, round(_GUESS_SHARE * len(scores)))
    right = count_guesses(scores, included, guesses)
    in_one_run = one_run(len(scores), guesses, right, delta, confidence)
    for_any_mechanism = Bound("one run", in_one_run, confidence, ANY_DEPENDENCE)
    if event.sampling_prob < 1:
        on_curve = bound_epsilon(scores_I, scores_O, event, delta, confidence)
        return Bound("trade-off curve", on_curve, confidence, INDEPENDENT), for_any_mechanism
    rates = rate_bounds(scores_I, scores_O, MIDPOINT, confidence)
    fit = gaussian_fit(scores_I, scores_O, delta, confidence)
    f_dp = one_run_gaussian(len(scores), guesses, right, delta, confidence)
    return (
        Bound("GDP, Gaussian fit", fit, confidence, f"{INDEPENDENT}, normal scores"),
        Bound("GDP, Clopper-Pearson", gaussian_from_rates(*rates, delta), confidence, INDEPENDENT),
        Bound("f-DP in one run", f_dp, confidence, "a Gaussian trade-off curve"),
        for_any_mechanism,
    )


def _flat(tensors: Sequence[Tensor]) -> NDArray[np.float64]:
    return torch.cat([tensor.detach().double().flatten().cpu() for tensor in tensors]).numpy()
