"""The clipped sum as a theorem: integers on a grid, in any order, one unit at most one clip norm. Exact arithmetic."""

import itertools
import random
from fractions import Fraction

import numpy as np
import pytest
import torch

from fedbank.privacy.clipping import GRID_STEPS, ClippedSum, _squared_norms, clip_and_sum
from fedbank.privacy.noise import RandomStream, add_gaussian

CLIP_NORMS = (1e-6, 0.2, 1.0, 1 / 3, 7.7, 1e6)


def _squared_steps(total: ClippedSum) -> int:
    """|sum|² in steps, in Python's integers."""
    return sum(int(value) ** 2 for tensor in total.steps for value in tensor.flatten().tolist())


def _units(seed: int) -> list[torch.Tensor]:
    """Gradients of everything between denormal and the largest fp32 number, many of exactly the clip norm."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((40, 257))
    rows *= 10.0 ** rng.integers(-20, 20, (40, 1)) / np.linalg.norm(rows, axis=1, keepdims=True)
    rows[::3] = np.sign(rows[::3]) * rng.choice([0.0, 1.0, 3e38, 1e-45], (14, 257))
    return [torch.from_numpy(part.astype(np.float32)) for part in np.split(rows, [100, 200], axis=1)]


@pytest.mark.parametrize("clip_norm", CLIP_NORMS)
def test_no_unit_is_longer_than_the_clip_norm_in_exact_arithmetic(clip_norm: float) -> None:
    for seed in range(5):
        grads = _units(seed)
        for unit in range(len(grads[0])):
            total = clip_and_sum([grad[[unit]] for grad in grads], clip_norm)
            assert _squared_steps(total) <= GRID_STEPS**2
    assert Fraction(total.step) * GRID_STEPS == Fraction(clip_norm)


@pytest.mark.parametrize("away", [1 - 2**-24, 1.0, 1 + 2**-23, 1 + 1e-6])
def test_gradients_just_at_the_clip_norm_stay_within_it(away: float) -> None:
    for size, seed in itertools.product((1, 2, 3, 1000, 4096), range(20)):
        row = torch.randn(1, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        row *= away / row.norm()
        assert _squared_steps(clip_and_sum([row.float()], 1.0)) <= GRID_STEPS**2


@pytest.mark.parametrize("clip_norm", [0.2, 1 / 3])
def test_what_a_unit_adds_depends_on_nobody_else(clip_norm: float) -> None:
    grads, rng = _units(7), random.Random(0)
    alone = [clip_and_sum([grad[[unit]] for grad in grads], clip_norm) for unit in range(40)]
    for _ in range(200):
        picked = rng.sample(range(40), rng.randint(1, 40))
        total = clip_and_sum([grad[picked] for grad in grads], clip_norm)
        for number, tensor in enumerate(total.steps):
            assert torch.equal(tensor, sum(alone[unit].steps[number] for unit in picked))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_rows_and_threads_changes_no_norm(threads: int) -> None:
    """A library's own sum of one long row is split among threads; of two rows, it is not."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for seed in range(20):
            row = torch.randn(1, 300_001, generator=torch.Generator().manual_seed(seed))
            assert float(_squared_norms(row)) == float(_squared_norms(row.repeat(2, 1))[1])
    finally:
        torch.set_num_threads(before)


def test_sums_on_different_grids_are_not_added() -> None:
    one, other = (clip_and_sum([torch.ones(1, 3)], norm) for norm in (1.0, 2.0))
    with pytest.raises(ValueError, match="one grid"):
        one.plus(other)


def test_a_release_is_a_function_of_the_exact_sum_plus_noise() -> None:
    """A sum that is shifted by whole points of the public grid shifts the release by just these, whatever the noise."""
    clip_norm, points = 0.2, 37
    step, grid = clip_norm / GRID_STEPS, clip_norm / 2**20
    base = torch.randint(-(2**40), 2**40, (5000,), generator=torch.Generator().manual_seed(2))
    shifted = base + points * (GRID_STEPS // 2**20)
    (one,) = add_gaussian((base,), clip_norm, grid, RandomStream.derived("shift"), step=step)
    (other,) = add_gaussian((shifted,), clip_norm, grid, RandomStream.derived("shift"), step=step)
    moved = (other.double() - one.double()) / grid  # fp32: right to half a point here
    assert float((moved - points).abs().max()) < 0.5


def test_a_finite_gradient_whose_square_overflows_counts_in_full() -> None:
    total = clip_and_sum([torch.full((1, 12), 3e38)], 1.0)
    assert 0.999 * GRID_STEPS**2 <= _squared_steps(total) <= GRID_STEPS**2
