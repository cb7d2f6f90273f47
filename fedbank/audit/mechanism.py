"""Trials of the code that protects: sample, clip, sum, noise, round, on gradients that an adversary would choose.

Every trial calls the plan's own ``sampling.draw``, ``clip`` and ``release`` on a data set with or without one
audited customer. Its score is what an adversary who knows everything else computes: the released vector along the
audited gradient, in clip norms; over several steps the likelihood ratio. Tensors: U customers, two parameters.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedbank.audit.bounds import Scores, gaussian_fit, gaussian_from_rates, rate_bounds
from fedbank.audit.curves import bound_epsilon
from fedbank.audit.finding import Bound, Finding
from fedbank.privacy.accounting import PrivacyEvent
from fedbank.privacy.noise import RandomStream
from fedbank.privacy.plan import PrivacyPlan

Streams = Callable[[int], RandomStream]
"""The randomness of every trial, by its number."""

_SHAPES = ((3,), (2, 2))
_MICRO_BATCH = 2
_BATCH = 1000
MIDPOINT = 0.0
"""Of the log likelihood ratio: for a Gaussian mechanism the threshold at which rates say most about the noise."""
_CERTAIN = 1e6
"""The score of a release that is not finite, and the most that any score says."""
_INDEPENDENT_TRIALS = "independent trials"
_ON_GAUSSIAN, _ON_CURVE = "exact rates, Gaussian curve", "exact rates, plan's curve"


@dataclass(frozen=True, slots=True, eq=False)
class _Scene:
    """One data set with the audited customer and its neighbour without; ``sign`` is that of the audited gradient."""

    with_audited: tuple[Tensor, ...]
    without: tuple[Tensor, ...]
    sign: float


def secure_stream(number: int) -> RandomStream:
    """What a bank uses for a round; nobody can draw it again."""
    return RandomStream.secure()


@dataclass(frozen=True, slots=True)
class Trials:
    """How an audit runs its trials.

    ``run`` maps batches of trials to their scores, here or in other processes; ``progress`` is told how many are done.
    """

    count: int
    streams: Streams = secure_stream
    run: Callable[..., Iterable[Scores]] = map
    progress: Callable[[int], None] = lambda done: None


def audit_mechanism(plan: PrivacyPlan, trials: Trials, confidence: float) -> Finding:
    """The bound from whole campaigns of ``plan``, half of them with a customer at the clip norm or far above.

    Their batch mates are none, NaN and infinite, huge, or ordinary. One such customer at full length is the worst case
    of the clipped sum, so that the bound comes close to the claim where the code keeps it.
    """
    event = plan.event(plan.sampling.num_steps)
    scores_I, scores_O = _scores(plan, _scenes, trials)
    epsilon, method = _bound(scores_I, scores_O, plan, event, confidence)
    bounds = [Bound(method, epsilon, confidence, _INDEPENDENT_TRIALS)]
    if event.sampling_prob == 1:
        fit = gaussian_fit(scores_I, scores_O, plan.delta, confidence)
        bounds.append(Bound("Gaussian fit", fit, confidence, "independent normal scores"))
    steps = f"{event.num_steps} step{'s' * (event.num_steps > 1)}"
    everybody = "everybody takes part" if event.sampling_prob == 1 else f"sampled with q = {event.sampling_prob:g}"
    return _finding(f"{steps}, {everybody}", plan, tuple(bounds), scores_I, scores_O)


def audit_invalid_gradient(plan: PrivacyPlan, trials: Trials, confidence: float) -> Finding:
    """The same for an audited customer whose gradient is NaN or infinite: they must leave no trace at all.

    A release that is not finite counts as the clearest sign of their presence.
    """
    scores_I, scores_O = _scores(plan, _invalid_scenes, trials)
    # Two thresholds, each with half of the error: a shift of the release, and a release that is not finite.
    half = (1 + confidence) / 2
    rates = [rate_bounds(scores_I, scores_O, threshold, half) for threshold in (MIDPOINT, _CERTAIN / 2)]
    epsilon = max(gaussian_from_rates(*pair, plan.delta) for pair in rates)
    bounds = (Bound(_ON_GAUSSIAN, epsilon, confidence, _INDEPENDENT_TRIALS),)
    return _finding("customer with an invalid gradient", plan, bounds, scores_I, scores_O)


def log_likelihood_ratio(projections: NDArray[np.float64], event: PrivacyEvent) -> Scores:
    """log p(took part)/p(did not) summed over the steps in the last axis, from projections in clip norms.

    One step's projection is N(0, sigma²) without the customer and, with probability q, N(1, sigma²) with them.
    """
    shift = (2 * projections - 1) / (2 * event.noise_multiplier**2)
    absent = math.log1p(-event.sampling_prob) if event.sampling_prob < 1 else -math.inf
    with np.errstate(invalid="ignore"):
        ratios: Scores = np.logaddexp(absent, math.log(event.sampling_prob) + shift).sum(axis=-1)
    return np.clip(np.nan_to_num(ratios, nan=_CERTAIN), -_CERTAIN, _CERTAIN)


def _bound(
    scores_I: Scores, scores_O: Scores, plan: PrivacyPlan, event: PrivacyEvent, confidence: float
) -> tuple[float, str]:
    if event.sampling_prob == 1:
        return gaussian_from_rates(*rate_bounds(scores_I, scores_O, MIDPOINT, confidence), plan.delta), _ON_GAUSSIAN
    return bound_epsilon(scores_I, scores_O, event, plan.delta, confidence), _ON_CURVE


def _scores(plan: PrivacyPlan, scenes: Callable[[float], list[_Scene]], trials: Trials) -> tuple[Scores, Scores]:
    """Scores of trials with the audited customer and of as many without, over all scenes in turn."""
    batches = [range(first, min(first + _BATCH, trials.count)) for first in range(0, trials.count, _BATCH)]
    done, parts = 0, []
    for batch, scores in zip(batches, trials.run(partial(_run, plan, scenes, trials.streams), batches), strict=True):
        parts.append(scores)
        done += len(batch)
        trials.progress(done)
    joined = np.concatenate(parts)
    return joined[1::2], joined[::2]


def _run(plan: PrivacyPlan, scenes: Callable[[float], list[_Scene]], streams: Streams, batch: range) -> Scores:
    """Scores of the trials with these numbers; odd ones have the audited customer."""
    prepared, steps = scenes(plan.clip_norm), plan.sampling.num_steps
    released, signs = [], []
    for number in batch:
        scene, stream = prepared[number // 2 % len(prepared)], streams(number)
        grads = scene.with_audited if number % 2 else scene.without
        released += [_release(plan, grads, stream) for _ in range(steps)]
        signs.append(scene.sign)
    parts = [torch.stack(tensors).flatten(1).double() for tensors in zip(*released, strict=True)]
    along = torch.cat(parts, dim=1) @ torch.cat(_DIRECTION)
    sums = along.reshape(len(batch), steps) * plan.sampling.expected_batch_size / plan.clip_norm
    return log_likelihood_ratio(np.asarray(signs)[:, None] * sums.numpy(), plan.event(steps))


def _release(plan: PrivacyPlan, grads: tuple[Tensor, ...], stream: RandomStream) -> tuple[Tensor, ...]:
    """One step of training without its model: ``grads`` are the gradients of all U customers."""
    chosen = plan.sampling.draw(np.ones(len(grads[0]), np.int64), stream)
    rows = torch.tensor([unit for unit, _ in chosen], dtype=torch.int64)
    total = plan.clip([grad.index_select(0, rows[:_MICRO_BATCH]) for grad in grads])
    for part in torch.split(rows[_MICRO_BATCH:], _MICRO_BATCH) if len(rows) > _MICRO_BATCH else ():
        total = total.plus(plan.clip([grad.index_select(0, part) for grad in grads]))
    return plan.release(total, stream)


def _directions() -> list[tuple[Tensor, ...]]:
    """Orthonormal directions over both parameters together, each with weight in both."""
    sizes = [math.prod(shape) for shape in _SHAPES]
    basis = torch.linalg.qr(torch.randn(sum(sizes), sum(sizes), generator=torch.Generator().manual_seed(0)).double())[0]
    return [tuple(torch.split(column, sizes)) for column in basis.T]


_DIRECTION, _ASIDE = _directions()[:2]
_NOBODY = tuple(torch.zeros(0, *shape) for shape in _SHAPES)


def _customer(direction: tuple[Tensor, ...], length: float) -> tuple[Tensor, ...]:
    """One customer's gradient of this ``length``, one (1, *shape) tensor a parameter."""
    parts = zip(direction, _SHAPES, strict=True)
    return tuple((length * part).float().reshape(1, *shape) for part, shape in parts)


def _scene(mates: list[tuple[Tensor, ...]], audited: tuple[Tensor, ...], sign: float) -> _Scene:
    without = tuple(torch.cat(parts) for parts in zip(_NOBODY, *mates, strict=True))
    joined = tuple(torch.cat([mate, own]) for mate, own in zip(without, audited, strict=True))
    return _Scene(joined, without, sign)


def _scenes(clip_norm: float) -> list[_Scene]:
    """The audited customer at the clip norm and far beyond it, in both directions, beside every kind of batch mate.

    Mates are orthogonal to them, so that an adversary who knows the mates loses nothing by not subtracting them.
    """
    exact, huge = _customer(_DIRECTION, clip_norm), _customer(_DIRECTION, 1e6 * clip_norm)
    back = _customer(_DIRECTION, -1e3 * clip_norm)
    invalid = [_customer(_ASIDE, math.nan), _customer(_ASIDE, math.inf)]
    return [
        _scene([], exact, 1.0),
        _scene(invalid, huge, 1.0),
        _scene([_customer(_ASIDE, 1e12 * clip_norm)], back, -1.0),
        _scene([_customer(_ASIDE, 0.1 * clip_norm)], huge, 1.0),
    ]


def _invalid_scenes(clip_norm: float) -> list[_Scene]:
    mate = _customer(_ASIDE, 0.1 * clip_norm)
    return [_scene([mate], _customer(_DIRECTION, length), 1.0) for length in (math.nan, math.inf, -math.inf)]


def _finding(name: str, plan: PrivacyPlan, bounds: tuple[Bound, ...], scores_I: Scores, scores_O: Scores) -> Finding:
    settings: dict[str, float | int | str] = {
        "sampling_prob": plan.sampling.sampling_prob,
        "noise_multiplier": plan.noise_multiplier,
        "steps": plan.sampling.num_steps,
    }
    return Finding(name, plan.epsilon(), plan.delta, bounds, scores_I, scores_O, settings)
