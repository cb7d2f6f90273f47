"""Coins, canaries, shadows and scores of the attacks on trained adapters; no training."""

import numpy as np
import pytest

from fedbank.errors import ConfigError
from fedbank_simulations.audit.audience import choose, flip
from fedbank_simulations.audit.canary import make_canaries
from fedbank_simulations.audit.membership import Shadows, draw_shadows, lira_scores, mean_without


def test_coins_belong_to_the_seed_and_are_fair():
    coins = flip(0, "test", 4000)
    assert np.array_equal(coins, flip(0, "test", 4000)) and not np.array_equal(coins, flip(1, "test", 4000))
    assert 1850 < coins.sum() < 2150


def test_chosen_customers_keep_their_records(make_units):
    data = make_units([2, 1, 3])
    some = choose(data, [2, 0])
    assert list(some.records_per_unit()) == [3, 2]
    assert np.array_equal(some.record(0), data.record(3)) and np.array_equal(some.record(4), data.record(1))
    assert list(some.answer_offsets) == list(data.answer_offsets[[3, 4, 5, 0, 1]])
    assert choose(data, []).num_units == 0


def test_canaries_are_distinct_customers_with_distinct_questions():
    canaries = make_canaries(300, seed=0)
    assert len({canary.customer for canary in canaries}) == len({canary.question for canary in canaries}) == 300
    assert canaries == make_canaries(300, seed=0) != make_canaries(300, seed=1)


def test_every_candidate_is_in_half_of_the_shadows():
    sides = draw_shadows(50, 6, seed=0)
    assert (sides.sum(axis=0) == 3).all()
    assert draw_shadows(50, 0, seed=0).shape == (0, 50)
    with pytest.raises(ConfigError, match="even number of shadows"):
        draw_shadows(50, 3, seed=0)


def test_lira_tells_members_whose_loss_is_lower_than_their_own_usual_one():
    rng = np.random.default_rng(0)
    difficulty, sides = rng.normal(3, 2, 200), draw_shadows(200, 8, seed=0)
    included = rng.random(200) < 0.5
    shadows = Shadows(difficulty - sides + 0.3 * rng.standard_normal(sides.shape), sides)
    losses = difficulty - included + 0.3 * rng.standard_normal(200)
    scores = lira_scores(losses, shadows)
    assert ((scores > 0) == included).mean() > 0.85
    assert np.abs(mean_without(shadows) - difficulty).max() < 1
