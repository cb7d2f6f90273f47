"""Poisson sampling: every customer independently, with the public probability, neither more nor less often."""

import numpy as np
import pytest
from scipy.stats import chi2

from fedbank.privacy.noise import RandomStream
from fedbank.privacy.plan import Sampling
from fedbank.privacy.sampling import choose_records, poisson_sample

DRAWS, UNITS, PROBABILITY = 3000, 40, 0.1


def _draws(probability: float) -> np.ndarray:
    """(DRAWS, UNITS) whether a unit was in a draw."""
    stream, sampled = RandomStream.derived("sampling", str(probability)), np.zeros((DRAWS, UNITS), bool)
    for draw in sampled:
        draw[poisson_sample(stream.uniform(UNITS), probability)] = True
    return sampled


def _fixed_size_draws() -> np.ndarray:
    """What shuffling does: always exactly UNITS * PROBABILITY units."""
    rng = np.random.default_rng(0)
    sampled = np.zeros((DRAWS, UNITS), bool)
    for draw in sampled:
        draw[rng.permutation(UNITS)[: int(UNITS * PROBABILITY)]] = True
    return sampled


def _right_frequency(sampled: np.ndarray) -> bool:
    """Chi-square over the units, two-sided at 1e-4."""
    expected, spread = DRAWS * PROBABILITY, DRAWS * PROBABILITY * (1 - PROBABILITY)
    statistic = float(((sampled.sum(0) - expected) ** 2 / spread).sum())
    return chi2.ppf(5e-5, UNITS) < statistic < chi2.ppf(1 - 5e-5, UNITS)


def _right_spread(sampled: np.ndarray) -> bool:
    """The batch size of independent draws has the binomial variance; chi-square two-sided at 1e-4."""
    statistic = (DRAWS - 1) * sampled.sum(1).var(ddof=1) / (UNITS * PROBABILITY * (1 - PROBABILITY))
    return bool(chi2.ppf(5e-5, DRAWS - 1) < statistic < chi2.ppf(1 - 5e-5, DRAWS - 1))


def test_every_unit_is_in_as_often_as_the_accountant_believes() -> None:
    assert _right_frequency(_draws(PROBABILITY))
    assert not _right_frequency(_draws(PROBABILITY * 2 / 3))
    assert not _right_frequency(_draws(PROBABILITY * 1.15))


def test_units_are_in_independently() -> None:
    assert _right_spread(_draws(PROBABILITY))
    assert not _right_spread(_fixed_size_draws())


def test_empty_samples_occur() -> None:
    empty = int((_draws(PROBABILITY).sum(1) == 0).sum())
    expected = DRAWS * (1 - PROBABILITY) ** UNITS
    assert abs(empty - expected) < 5 * np.sqrt(expected)


@pytest.mark.parametrize(
    ("uniforms", "probability", "chosen"),
    [([0.0, 0.5, 0.99], 1.0, [0, 1, 2]), ([0.1, 0.2, 0.3], 0.2, [0]), ([0.5, 0.6], 0.1, []), ([], 0.5, [])],
    ids=["certain", "strictly-below", "none", "no-units"],
)
def test_poisson_sample(uniforms: list[float], probability: float, chosen: list[int]) -> None:
    assert poisson_sample(np.array(uniforms), probability).tolist() == chosen


@pytest.mark.parametrize(("records", "count"), [(1, 1), (3, 4), (4, 4), (5, 4), (20, 1), (20, 19)])
def test_records_are_distinct_sorted_and_not_too_many(records: int, count: int) -> None:
    chosen = choose_records(RandomStream.derived("records", records, count).uniform(records), count)
    assert len(chosen) == min(records, count)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert set(chosen.tolist()) <= set(range(records))


def test_every_record_is_chosen_equally_often() -> None:
    stream, counts = RandomStream.derived("records"), np.zeros(7)
    for _ in range(3000):
        counts[choose_records(stream.uniform(7), 3)] += 1
    assert np.abs(counts / 3000 - 3 / 7).max() < 5 * np.sqrt(3 / 7 * 4 / 7 / 3000)


def test_a_draw_takes_at_most_the_agreed_records_of_each_customer() -> None:
    sampling = Sampling(0.5, 10.0, 4, 10)
    records = np.array([1, 2, 3, 4, 5, 20] * 20)
    draw = sampling.draw(records, RandomStream.derived("draw"))
    units = [unit for unit, _ in draw]
    assert 35 < len(units) < 85
    assert units == sorted(set(units))
    for unit, chosen in draw:
        assert len(chosen) == min(4, records[unit])
        assert chosen.max() < records[unit]


def test_a_draw_repeats_with_its_stream_and_changes_with_the_step() -> None:
    sampling, records = Sampling(0.5, 10.0, 4, 10), np.full(50, 6)
    stream = RandomStream.derived("steps")
    first, second = sampling.draw(records, stream), sampling.draw(records, stream)
    again = sampling.draw(records, RandomStream.derived("steps"))
    assert [(u, c.tolist()) for u, c in first] == [(u, c.tolist()) for u, c in again]
    assert [u for u, _ in first] != [u for u, _ in second]
