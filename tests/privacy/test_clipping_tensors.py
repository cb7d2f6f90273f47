"""One clip norm over all tensors of an adapter, however many there are and whichever of them is large."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedbank.privacy.clipping import ClippedSum
from fedbank.privacy.plan import PrivacyPlan, Sampling

CLIP = 0.7
PLAN = PrivacyPlan.with_noise(Sampling(0.1, 10.0, 1, 10), 1.0, CLIP, 1e-5)
NUMBERS = (1, 2, 15, 16, 17, 33, 64, 65, 300)
SHAPES: tuple[tuple[int, ...], ...] = ((3, 4), (5,), (1, 1), (2, 1, 3), (1,), (7, 2))
Grads = list[torch.Tensor]


def _grads(number: int, units: int, size: Callable[[int], float], seed: int = 0) -> Grads:
    """Tensor i of every unit has norm ``size(i)``."""
    rng, grads = np.random.default_rng(seed), []
    for index in range(number):
        values = rng.normal(size=(units, *SHAPES[index % len(SHAPES)]))
        flat = values.reshape(units, -1)
        flat *= size(index) / np.linalg.norm(flat, axis=1, keepdims=True)
        grads.append(torch.from_numpy(values).float())
    return grads


def _norm(tensors: Sequence[torch.Tensor]) -> float:
    return float(np.sqrt(sum(float((tensor.double() ** 2).sum()) for tensor in tensors)))


def _without(grads: Grads, unit: int) -> Grads:
    return [torch.cat([grad[:unit], grad[unit + 1 :]]) for grad in grads]


def _moved(one: ClippedSum, other: ClippedSum) -> float:
    return _norm([mine.double() - theirs.double() for mine, theirs in zip(one.tensors, other.tensors, strict=True)])


@pytest.mark.parametrize("number", NUMBERS)
def test_a_unit_counts_for_one_clip_norm_whichever_tensor_is_large(number: int) -> None:
    for large in sorted({0, 1, 7, 8, 14, 15, 16, 17, 31, 32, 63, 64, number // 2, number - 2, number - 1}):
        if 0 <= large < number:
            total = PLAN.clip(_grads(number, 1, lambda index, large=large: 1e3 if index == large else 1e-3))
            assert len(total.tensors) == number and total.sensitivity == CLIP
            assert 0.9999 * CLIP < _norm(total.tensors) <= CLIP


@pytest.mark.parametrize("number", NUMBERS)
def test_tensors_that_are_small_each_are_large_together(number: int) -> None:
    """Each below the clip norm, all together far above it: the norm is that of all of them."""
    total = PLAN.clip(_grads(number, 1, lambda index: 0.9 * CLIP))
    whole = 0.9 * CLIP * np.sqrt(number)
    assert _norm(total.tensors) == pytest.approx(min(CLIP, whole), rel=1e-4) and _norm(total.tensors) <= CLIP
    shares = [_norm([tensor]) for tensor in total.tensors]
    assert max(shares) == pytest.approx(min(shares), rel=1e-4)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("scale", [0.01, 0.2, 5.0, 1e6])
def test_one_unit_more_moves_the_sum_by_no_more_than_the_clip_norm(number: int, scale: float) -> None:
    rng = np.random.default_rng(number)
    sizes = scale * rng.lognormal(0, 2, number)
    grads = _grads(number, 5, lambda index: float(sizes[index]), seed=1)
    whole = PLAN.clip(grads)
    expected = min(CLIP, float(np.linalg.norm(sizes)))
    for unit in range(5):
        moved = _moved(whole, PLAN.clip(_without(grads, unit)))
        assert moved <= CLIP and moved == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("number", [17, 300])
@pytest.mark.parametrize("where", [0, 15, 16, -1])
def test_one_value_that_is_no_number_in_any_tensor_makes_its_unit_count_for_nothing(number: int, where: int) -> None:
    grads = _grads(number, 4, lambda index: 0.3)
    for value in (float("nan"), float("inf"), -float("inf")):
        wrong = [grad.clone() for grad in grads]
        wrong[where].view(4, -1)[2, -1] = value
        assert _moved(PLAN.clip(wrong), PLAN.clip(_without(grads, 2))) < 1e-6


def test_a_tensor_of_zeros_or_of_no_values_changes_nothing() -> None:
    grads = _grads(20, 3, lambda index: 2.0)
    padded = [torch.zeros(3, 4), *grads, torch.zeros(3, 0), torch.zeros(3, 1)]
    plain, total = PLAN.clip(grads), PLAN.clip(padded)
    assert [tuple(tensor.shape) for tensor in total.tensors[-2:]] == [(0,), (1,)]
    assert _moved(plain, replace(total, steps=total.steps[1:-2])) < 1e-6
    assert _norm([total.tensors[0], total.tensors[-1]]) == 0
