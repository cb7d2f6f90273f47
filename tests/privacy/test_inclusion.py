"""Who takes part in a step depends on nothing of the customer: records, place, or who else is there."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import chi2

from fedbank.privacy.noise import RandomStream
from fedbank.privacy.plan import Sampling

UNITS, DRAWS = 60, 4000
COUNTS = (1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33, 200)
"""Records of a customer; every number occurs five times, so that any threshold divides the customers."""
BANKS: dict[str, Callable[[], np.ndarray]] = {
    "one record each": lambda: np.ones(UNITS, np.int64),
    "few first": lambda: np.repeat(COUNTS, 5),
    "many first": lambda: np.repeat(COUNTS, 5)[::-1].copy(),
    "mixed": lambda: np.random.default_rng(2).permutation(np.repeat(COUNTS, 5)),
    "one with a thousand": lambda: np.concatenate([np.ones(UNITS - 1, np.int64), [1000]]),
}


def _included(records: np.ndarray, sampling_prob: float, draws: int, name: str) -> np.ndarray:
    """(draws, units) whether a unit was in a step."""
    sampling = Sampling(sampling_prob, 10.0, 4, draws)
    stream, found = RandomStream.derived("inclusion", name), np.zeros((draws, len(records)), bool)
    for row in found:
        row[[unit for unit, _ in sampling.draw(records, stream)]] = True
    return found


def _as_often(found: np.ndarray, sampling_prob: float) -> bool:
    """Chi-square over the units at 1e-5, above: some unit is in more or less often than it should be."""
    expected, spread = len(found) * sampling_prob, len(found) * sampling_prob * (1 - sampling_prob)
    statistic = float(((found.sum(0) - expected) ** 2 / spread).sum())
    return bool(statistic < chi2.isf(1e-5, found.shape[1]))


@pytest.mark.parametrize("bank", BANKS)
def test_customers_with_few_and_with_many_records_are_in_equally_often(bank: str) -> None:
    records = BANKS[bank]()
    found = _included(records, 0.2, DRAWS, bank)
    assert _as_often(found, 0.2)
    for count in np.unique(records):
        for group in (records <= count, records > count):
            total, trials = int(found[:, group].sum()), DRAWS * int(group.sum())
            assert abs(total - 0.2 * trials) <= 4.5 * np.sqrt(0.16 * trials)


def test_a_twentieth_more_for_some_customers_would_be_seen() -> None:
    rng = np.random.default_rng(0)
    found = rng.uniform(size=(DRAWS, UNITS)) < np.where(np.arange(UNITS) % 3, 0.2, 0.225)
    assert not _as_often(found, 0.2)


@pytest.mark.parametrize("sampling_prob", [0.003, 0.1, 0.5, 0.97, 1.0])
def test_the_same_uniforms_choose_the_same_customers_whatever_their_records(sampling_prob: float) -> None:
    """Exactly: a customer is in if the uniform of their place is below q, and by nothing else."""
    sampling = Sampling(sampling_prob, 10.0, 4, 10)
    for number in range(200):
        chosen = np.flatnonzero(RandomStream.derived("same", number).uniform(UNITS) < sampling_prob).tolist()
        for make in BANKS.values():
            drawn = sampling.draw(make(), RandomStream.derived("same", number))
            assert [unit for unit, _ in drawn] == chosen


def test_no_two_customers_are_in_together_more_or_less_often() -> None:
    records = BANKS["mixed"]()
    found = _included(records, 0.3, DRAWS, "pairs")
    together = np.corrcoef(found.T.astype(float)) - np.eye(UNITS)
    assert np.abs(together).max() < 5 / np.sqrt(DRAWS)
    following = np.corrcoef(found[:-1].T.astype(float), found[1:].T.astype(float))[:UNITS, UNITS:]
    assert np.abs(following).max() < 5.5 / np.sqrt(DRAWS)


@pytest.mark.parametrize("step", [0, 1, 7, 8, 9, 63, 64, 300])
def test_no_step_has_a_sampling_of_its_own(step: int) -> None:
    """The sixty-fourth step of a campaign samples as the first does."""
    records, sampling, total = BANKS["mixed"](), Sampling(0.2, 10.0, 1, 400), 0
    for number in range(40):
        stream = RandomStream.derived("steps", number)
        for _ in range(step):
            stream.uniform(1)
        total += len(sampling.draw(records, stream))
    assert abs(total - 40 * UNITS * 0.2) < 4.5 * np.sqrt(40 * UNITS * 0.16)
