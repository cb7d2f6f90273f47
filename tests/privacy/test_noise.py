"""Noise: the right distribution (two thirds of it is noticed), on the grid, from streams that do not repeat."""

import numpy as np
import pytest
import torch
from scipy.special import ndtri
from scipy.stats import kstest
from torch import Tensor

from fedbank.privacy import noise as production
from fedbank.privacy.noise import RandomStream, fresh_key, invert

COUNT = 40_000
STEP = 2.0**-48
"""Of the exact sums below: far finer than any grid."""


def add_gaussian(sums: tuple[Tensor, ...], std: float, grid: float, stream: RandomStream) -> tuple[Tensor, ...]:
    exact = tuple(torch.round(tensor.double() / STEP).to(torch.int64) for tensor in sums)
    return production.add_gaussian(exact, std, grid, stream, step=STEP)


def _is_standard_normal(values: np.ndarray) -> bool:
    """Mean, variance and shape, each at about 1e-5."""
    return bool(
        abs(values.mean()) < 4.5 / np.sqrt(len(values))
        and abs(values.var() - 1) < 4.5 * np.sqrt(2 / len(values))
        and kstest(values, "norm").pvalue > 1e-5
    )


def test_normal_variates() -> None:
    values = RandomStream.derived("normal").normal(COUNT)
    assert _is_standard_normal(values)
    assert not _is_standard_normal(values * 2 / 3)
    assert not _is_standard_normal(values + 0.05)
    assert not _is_standard_normal(RandomStream.derived("u").uniform(COUNT) * np.sqrt(12) - np.sqrt(3))
    assert _is_standard_normal(RandomStream.secure().normal(COUNT))


def test_successive_variates_are_uncorrelated() -> None:
    values = RandomStream.derived("lag").normal(COUNT)
    for lag in (1, 2, 7):
        assert abs(np.corrcoef(values[:-lag], values[lag:])[0, 1]) < 4.5 / np.sqrt(COUNT)


def test_uniform_variates() -> None:
    values = RandomStream.derived("uniform").uniform(COUNT)
    assert kstest(values, "uniform").pvalue > 1e-5
    assert 0 < values.min() < values.max() < 1


@pytest.mark.parametrize("byte", [b"\x00", b"\xff"], ids=["all-zero-bits", "all-one-bits"])
def test_extreme_key_streams_stay_inside_the_open_interval(byte: bytes) -> None:
    class Constant:
        def update(self, data: bytes) -> bytes:
            return byte * len(data)

    stream = RandomStream.derived("extreme")
    stream._keystream = Constant()
    assert 0 < stream.uniform(1)[0] < 1
    assert np.isfinite(stream.normal(1)).all()


@pytest.mark.parametrize("std", [0.1, 1.0, 30.0])
def test_added_noise_has_the_asked_std(std: float) -> None:
    sums = (torch.linspace(-3, 3, COUNT).reshape(200, 200), torch.linspace(-1, 1, 100))
    released = add_gaussian(sums, std, 2.0**-20, RandomStream.derived("add", str(std)))
    noise = np.concatenate([(r - s).flatten().numpy() for r, s in zip(released, sums, strict=True)]) / std
    assert [tuple(tensor.shape) for tensor in released] == [(200, 200), (100,)]
    assert _is_standard_normal(noise.astype(np.float64))
    assert not _is_standard_normal(noise.astype(np.float64) * 2 / 3)


def test_tensors_do_not_share_noise() -> None:
    zeros = (torch.zeros(100, 100), torch.zeros(100, 100))
    first, second = add_gaussian(zeros, 1.0, 2.0**-20, RandomStream.derived("two"))
    assert abs(float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])) < 0.045


def test_successive_releases_do_not_share_noise() -> None:
    stream, zeros = RandomStream.derived("steps"), (torch.zeros(1000),)
    first, second = add_gaussian(zeros, 1.0, 2.0**-20, stream)[0], add_gaussian(zeros, 1.0, 2.0**-20, stream)[0]
    assert not torch.equal(first, second)
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.15


@pytest.mark.parametrize("grid", [2.0**-20, 2.0**-4, 0.5])
def test_released_values_are_multiples_of_the_grid(grid: float) -> None:
    (released,) = add_gaussian((torch.randn(5000),), 0.7, grid, RandomStream.derived("grid"))
    steps = released.double() / grid
    assert torch.equal(steps, steps.round())
    assert released.unique().numel() > 3


def test_derived_streams_repeat_and_differ_by_every_part_of_their_context() -> None:
    contexts = [(1, "a", 2), (1, "a", 3), (1, "b", 2), (2, "a", 2), (1, "a"), (12, "a"), ("1a", 2)]
    draws = [RandomStream.derived(*context).uniform(4).tolist() for context in contexts]
    assert RandomStream.derived(1, "a", 2).uniform(4).tolist() == draws[0]
    assert len({tuple(draw) for draw in draws}) == len(contexts)
    assert len({RandomStream.derived(*context).replay_id for context in contexts}) == len(contexts)
    assert RandomStream.derived(1, "a", 2).replay_id == RandomStream.derived(1, "a", 2).replay_id


def test_the_name_of_a_stream_is_not_its_key() -> None:
    named = RandomStream.derived("x")
    assert RandomStream(bytes.fromhex(named.replay_id).ljust(32, b"\0"), None).uniform(2).tolist() != (
        RandomStream.derived("x").uniform(2).tolist()
    )


def test_secure_streams_differ_and_cannot_be_replayed() -> None:
    streams = [RandomStream.secure() for _ in range(20)]
    assert {stream.replay_id for stream in streams} == {None}
    assert len({tuple(stream.uniform(2).tolist()) for stream in streams}) == 20


def test_one_stream_is_one_sequence_however_it_is_cut() -> None:
    whole, cut = RandomStream.derived("cut"), RandomStream.derived("cut")
    assert whole.uniform(10).tolist() == [*cut.uniform(3), *cut.uniform(0), *cut.uniform(7)]


def test_rounding_to_the_grid_comes_after_the_noise_and_costs_no_sensitivity() -> None:
    """A customer who moves every coordinate by a ten-thousandth of a grid step moves the release by no more on average.

    Rounded before the noise, every coordinate next to a rounding boundary would jump by a whole step: in d coordinates
    the square root of d steps, which no event accounts for.
    """
    grid, count = 2.0**-20, 400_000
    without = torch.full((count,), 0.49995 * grid, dtype=torch.float64)
    with_customer = without + 0.0001 * grid
    (one,) = add_gaussian((without,), 1e-4, grid, RandomStream.derived("rounding"))
    (other,) = add_gaussian((with_customer,), 1e-4, grid, RandomStream.derived("rounding"))
    assert abs(float((other - one).double().mean()) / grid) < 0.001


@pytest.mark.parametrize("bits", [2, 8, 20, 23, 24, 25, 33, 40, 50, 60])
@pytest.mark.parametrize("sign", [0, 1])
def test_variates_far_out_lie_closer_together_than_the_points_of_any_grid(bits: int, sign: int) -> None:
    """Else some points could be reached from one sum and not from its neighbour, and would tell them apart."""
    x = 2 ** (64 - bits)
    raw = np.array([2 * x + sign, 2 * x + sign, 2 * (x + 1) + sign], "<u8")

    def uniform(count: int) -> np.ndarray:
        # as far apart as an fp64 variate out there can tell
        return np.array([0.25, 0.25 + x * 2.0**-44, 0.25])[:count]

    low, next_up, one_up = invert(raw, uniform)
    assert (low > 0) == bool(sign) and abs(low) > 0
    nearest = abs(next_up - low) if x < 2**40 else 0.5 * abs(one_up - low) + 2.0**-60
    assert 0 < nearest < 2.0**-40
    assert abs(low) == pytest.approx(-ndtri(2.0**-bits), rel=1e-3)


def test_both_tails_are_as_likely_and_as_long() -> None:
    raw = np.random.default_rng(0).integers(0, 2**64, 100_000, np.uint64)
    half = np.full(100_000, 0.5)
    up, down = invert(raw | np.uint64(1), lambda n: half[:n]), invert(raw & ~np.uint64(1), lambda n: half[:n])
    assert np.array_equal(up, -down)
    assert np.isfinite(invert(np.array([0, 1, 2**64 - 1, 2**64 - 2], "<u8"), lambda n: half[:n])).all()


def test_a_kept_key_draws_the_same_stream_again_under_a_name_that_does_not_tell_it() -> None:
    key = fresh_key()
    one, again = RandomStream.kept(key), RandomStream.kept(key)
    assert np.array_equal(one.normal(100), again.normal(100))
    assert one.replay_id == again.replay_id is not None and key.hex()[:16] not in str(one.replay_id)
    assert RandomStream.kept(fresh_key()).replay_id != one.replay_id
    with pytest.raises(ValueError, match="32 bytes"):
        RandomStream.kept(key[:-1])
