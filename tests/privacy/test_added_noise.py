"""What ``add_gaussian`` adds, over millions of coordinates: normal tails on both sides, and nothing twice."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from chacha import keystream
from scipy.stats import norm

from fedbank.privacy.noise import RandomStream, add_gaussian

GRID = 2.0**-20
SHAPES = ((512, 300), (3,), (65_536,), (2, 131_072), (131_071,), (1, 1))
"""One adapter's tensors: 600 thousand coordinates, many of them in one tensor, or few."""
SIZE = sum(int(np.prod(shape)) for shape in SHAPES)


def _sums() -> tuple[torch.Tensor, ...]:
    rng = np.random.default_rng(5)
    return tuple(torch.from_numpy(np.round(rng.normal(0, 3, shape) / GRID) * GRID) for shape in SHAPES)


def _added(stream: RandomStream, std: float = 1.0, sums: tuple[torch.Tensor, ...] | None = None) -> list[np.ndarray]:
    """What was added to each tensor, in standard deviations; fp32 rounds what is released to some 1e-6."""
    given = _sums() if sums is None else sums
    step = std * GRID / 2**20
    exact = tuple(torch.round(tensor.double() / step).to(torch.int64) for tensor in given)
    released = add_gaussian(exact, std, std * GRID, stream, step=step)
    return [((r.double() - s).numpy() / std).reshape(-1) for r, s in zip(released, given, strict=True)]


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    """Two steps of each of two rounds: (4, SIZE)."""
    rounds = [RandomStream.kept(bytes([number]) * 32) for number in (1, 2)]
    return np.stack([np.concatenate(_added(stream)) for stream in rounds for _ in range(2)])


@pytest.mark.parametrize("beyond", [2.0, 3.0, 3.5, 4.0, 4.5, 5.0])
def test_both_tails_of_what_is_added_are_as_heavy_as_a_normals(noise: np.ndarray, beyond: float) -> None:
    expected = noise.size * norm.sf(beyond)
    for found in (int((noise > beyond).sum()), int((noise < -beyond).sum())):
        assert abs(found - expected) < 5 * np.sqrt(expected) + 0.5


def test_the_largest_of_millions_is_as_far_out_as_a_normals(noise: np.ndarray) -> None:
    low, high = norm.isf(1 - 0.999 ** (1 / noise.size)), norm.isf(1 - 0.001 ** (1 / noise.size))
    assert high < max(noise.max(), -noise.min()) < low + 1
    assert noise.max() > 4.5 and noise.min() < -4.5


@pytest.mark.parametrize("scale", [0.01, 1.0, 1000.0])
def test_every_coordinate_gets_the_variate_that_the_stream_drew_for_it(scale: float) -> None:
    drawn = RandomStream.derived("each").normal(SIZE)
    added = np.concatenate(_added(RandomStream.derived("each"), scale, tuple(torch.zeros(s) for s in SHAPES)))
    assert np.abs(added - drawn).max() < 2e-6


class _Given(RandomStream):
    """Draws what it is given."""

    def __init__(self, values: np.ndarray) -> None:
        super().__init__(bytes(32), None)
        self._values = values

    def normal(self, count: int) -> np.ndarray:
        assert count == len(self._values)
        return self._values


@pytest.mark.parametrize("sign", [1, -1])
def test_a_variate_is_added_however_far_out_it_is(sign: int) -> None:
    """A noise that is cut off anywhere proves that a customer is there: no sum without them reaches beyond."""
    far = sign * np.linspace(0.5, 9.5, SIZE)
    assert np.abs(np.concatenate(_added(_Given(far))) - far).max() < 2e-6


@pytest.mark.parametrize("count", [1, 8, 65_535, 65_536, 65_537, 1_300_000])
def test_the_stream_draws_the_whole_key_stream_and_no_part_of_it_twice(count: int) -> None:
    """By a ChaCha20 of the test's own; a variate is the inverse of a tail probability of 63 bits with a sign."""
    key = bytes(range(32))
    raw = keystream(key, count)
    tail = ((raw >> np.uint64(1)).astype(np.float64) + 0.5) * 2.0**-64
    expected = np.where(raw & np.uint64(1), 1, -1) * norm.isf(tail)
    assert np.array_equal(RandomStream.kept(key).normal(count).round(9), expected.round(9)) or (
        np.abs(RandomStream.kept(key).normal(count) - expected).max() < 1e-6
    )


def _marks(values: np.ndarray) -> np.ndarray:
    """A number for the sizes of every three neighbours: by chance, none of millions comes twice."""
    steps = np.round(np.abs(values) / GRID).astype(np.int64)
    return (steps[:-2] << 41) ^ (steps[1:-1] << 20) ^ steps[2:]


def _repeats(values: np.ndarray) -> int:
    marks = np.sort(_marks(values))
    return int((marks[1:] == marks[:-1]).sum())


def test_nothing_is_added_twice_within_a_step_or_in_two_steps_or_rounds(noise: np.ndarray) -> None:
    """Nor with the other sign: a sum or a difference of two releases would be free of noise there."""
    assert _repeats(noise.reshape(-1)) == 0
    for period in (4096, 65_536, 2**19):
        assert _repeats(np.resize(noise[0][:period], noise.shape[1])) > 0


@pytest.mark.parametrize("lag", [1, 2, 3, 7, *(2**power for power in range(2, 20)), 300, 153_603, 499_979])
def test_what_is_added_to_one_coordinate_says_nothing_about_another(noise: np.ndarray, lag: int) -> None:
    """Correlation with the coordinate ``lag`` further on, and of how far out they are, within and across tensors."""
    for step in noise[::2]:
        here, there = step[:-lag], step[lag:]
        bound = 5 / np.sqrt(len(here))
        assert abs(float(np.mean(here * there))) < bound
        assert abs(float(np.mean((here**2 - 1) * (there**2 - 1)))) < 2.5 * bound


def test_steps_and_rounds_share_no_noise_at_the_same_place(noise: np.ndarray) -> None:
    for one in range(4):
        for other in range(one):
            assert abs(float(np.mean(noise[one] * noise[other]))) < 5 / np.sqrt(noise.shape[1])


@pytest.mark.parametrize("cut", [lambda whole: [whole], lambda whole: list(torch.split(whole, 999))])
def test_how_a_model_is_cut_into_tensors_changes_no_noise(cut: Callable[[torch.Tensor], list[torch.Tensor]]) -> None:
    whole = torch.zeros(100_001)
    added = np.concatenate(_added(RandomStream.derived("cut"), 1.0, tuple(cut(whole))))
    assert np.abs(added - RandomStream.derived("cut").normal(len(whole))).max() < 2e-6


def test_the_stream_counts_what_was_added_not_what_was_drawn() -> None:
    stream = RandomStream.derived("count")
    stream.normal(5)
    assert stream.releases == ()
    for shapes in ([(4, 5), (7,)], [(3,)]):
        add_gaussian(tuple(torch.zeros(shape).long() for shape in shapes), 1.0, GRID, stream, step=GRID / 2**20)
    assert stream.releases == (27, 3)
