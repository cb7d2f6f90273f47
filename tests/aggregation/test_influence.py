"""How far one bank can move the adapter: whose update is left out, and what share of the average anybody has."""

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pytest

from fedbank.aggregation.influence import capped_weights, noise_limited, relative_bounds
from fedbank.aggregation.norms import noise_norms

H = 1.0
"""The norm of an honest update where all plans are alike; honest norms agree to a few per cent."""
ROUNDS = {
    # what happens: (norms of the honest, norms of the liars) -> liars that are left out; no honest bank ever is
    "five alike": ((H, 0.97 * H, 1.02 * H, H, 1.03 * H), (), 0),
    "one of four at the edge of its own bound": ((H, 0.98 * H, 1.02 * H), (8 * H,), 1),
    "one of five just beyond": ((H, H, H, H), (1.51 * H,), 1),
    "one of five just within": ((H, H, H, H), (1.49 * H,), 0),
    "two of five together": ((H, H, H), (8 * H, 8 * H), 2),
    "two of five, one far longer to raise the bound for the other": ((H, H, H), (1e6 * H, 2 * H), 2),
    "two of five, one sends nothing to lower it": ((H, 0.97 * H, 1.03 * H), (0.0, 8 * H), 1),
    "half of four together": ((H, H), (8 * H, 8 * H), 2),
    "a third of nine": ((H,) * 6, (2 * H, 8 * H, 1e30 * H), 3),
    "three, of whom no majority tells": ((H, H), (8 * H,), 0),
}


@pytest.mark.parametrize("row", ROUNDS.values(), ids=ROUNDS.keys())
def test_what_is_much_longer_than_the_others_is_left_out_and_no_honest_update_is(
    row: tuple[tuple[float, ...], tuple[float, ...], int],
) -> None:
    honest, liars, expected = row
    norms = {f"honest-{i}": norm for i, norm in enumerate(honest)} | {f"liar-{i}": norm for i, norm in enumerate(liars)}
    bounds = relative_bounds(norms, {})
    out = sorted(bank for bank, norm in norms.items() if norm > bounds[bank])
    assert (len(out), [bank for bank in out if bank.startswith("honest")]) == (expected, [])


def test_with_equal_plans_the_bound_is_one_and_a_half_times_the_median_norm() -> None:
    norms = {"a": 3.0, "b": 3.5, "c": 2.5, "d": 9.0, "e": 3.1}
    for noise in (0.0, 1.0, 2.5):
        bounds = relative_bounds(norms, dict.fromkeys(norms, noise))
        assert list(bounds.values()) == pytest.approx([1.5 * 3.1] * 5)


PLANS = {
    # customers: (noise multiplier, expected batch), calibrated for epsilon 3 over 60 steps of 32
    32: (10.774, 32.0),
    60: (5.867, 32.0),
    300: (1.485, 32.0),
    6000: (0.567, 32.0),
    60000: (0.429, 32.0),
}
CLIP, RATE, STEPS = 0.2, 6.0, 5
CONSORTIA = {
    "one small among large": (60, 6000, 6000, 6000, 6000),
    "one large among small": (6000, 60, 60, 60, 60),
    "halves": (60, 60, 60, 6000, 6000, 6000),
    "four of four sizes": (60, 300, 6000, 60000),
    "the smallest that fills its batch": (32, 6000, 6000, 6000),
}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("sizes", CONSORTIA.values(), ids=CONSORTIA.keys())
def test_honest_banks_of_very_different_size_are_never_left_out(sizes: tuple[int, ...], momentum: float) -> None:
    """Gradients that agree not at all or wholly, up to twice as much at one bank as at another; the plans' noise."""
    rng = np.random.default_rng(7)
    counts = np.array([sum(momentum**age for age in range(left)) for left in range(1, STEPS + 1)])
    for parameters in (2_000, 50_000):
        for _ in range(200):
            agreement = rng.uniform(0, 1)
            norms, stds = {}, {}
            for number, size in enumerate(sizes):
                multiplier, batch = PLANS[size]
                steps = RATE * CLIP * multiplier / batch * counts
                along = RATE * CLIP * agreement * rng.uniform(0.5, 1) * counts.sum()
                along += (steps * rng.normal(size=STEPS)).sum()
                across = np.sqrt((steps**2).sum() * rng.chisquare(parameters - 1))
                norms[f"{number}"] = float(math.hypot(along, across))
                stds[f"{number}"] = CLIP * multiplier / batch
            noise = noise_norms(parameters, STEPS, "sgd", RATE, momentum, stds)
            bounds = relative_bounds(norms, noise)
            assert all(norm <= bounds[bank] for bank, norm in norms.items()), (norms, bounds)


def test_a_bank_that_plans_with_much_noise_makes_no_room_for_another() -> None:
    noise = {"small": 26.0, "large-1": 2.5, "large-2": 2.5, "large-3": 2.5, "large-4": 2.5}
    norms = {"small": 26.1, "large-1": 2.6, "large-2": 2.6, "large-3": 2.6, "large-4": 5.0}
    bounds = relative_bounds(norms, noise)
    assert [bank for bank, norm in norms.items() if norm > bounds[bank]] == ["large-4"]


def test_nobody_earns_reach_without_end_by_declaring_a_single_customer() -> None:
    """Its plan has 600 times the noise of the others; it moves the average like 16 times their noise at most."""
    noise = {"tiny": 1500.0, "a": 2.5, "b": 2.5, "c": 2.5}
    bounds = relative_bounds(dict(noise), noise)
    weights = noise_limited(dict.fromkeys(noise, 1.0), noise)
    assert bounds["tiny"] * weights["tiny"] == pytest.approx(1.5 * 16 * 2.5)
    assert [weights[bank] for bank in "abc"] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("declared", [0.0, 1e-6, 0.56, 17.0, 1e9])
def test_no_noise_that_another_bank_declares_leaves_an_honest_one_out(declared: float) -> None:
    """One of four says that it has a thousand million customers: two small banks stay, as without it."""
    noise = {"small-1": 17.03, "small-2": 17.03, "large": 0.56, "liar": declared}
    norms = {"small-1": 17.1, "small-2": 17.0, "large": 1.1, "liar": min(declared, 1.0)}
    bounds = relative_bounds(norms, noise)
    assert all(norms[bank] <= bounds[bank] for bank in ("small-1", "small-2", "large"))
    assert all(weight > 0 for weight in noise_limited(dict.fromkeys(noise, 1.0), noise).values())


def test_fewer_than_four_banks_and_rounds_without_noise_keep_their_weights() -> None:
    weights = {"a": 1.0, "b": 2.0, "c": 3.0}
    assert noise_limited(weights, {"a": 900.0, "b": 1.0, "c": 1.0}) == weights
    assert noise_limited(weights | {"d": 1.0}, {}) == weights | {"d": 1.0}


@pytest.mark.parametrize(("optimizer", "std"), [("adam", 0.03), ("sgd", 0.0)], ids=["adam", "without privacy"])
def test_where_noise_does_not_set_the_length_the_norms_are_compared_as_they_are(optimizer: str, std: float) -> None:
    assert noise_norms(1000, 5, optimizer, 0.01, 0.0, {"bank": std}) == {"bank": 0.0}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_norm_of_noise_is_that_of_the_noise_that_is_drawn(momentum: float) -> None:
    rng, velocity, change = np.random.default_rng(3), np.zeros(20_000), np.zeros(20_000)
    for _ in range(4):
        velocity = momentum * velocity + rng.normal(0, 2.0 * 0.5, 20_000) / 16
        change = change - 0.1 * velocity
    expected = noise_norms(20_000, 4, "sgd", 0.1, momentum, {"bank": 0.5 * 2.0 / 16})
    assert np.linalg.norm(change) == pytest.approx(expected["bank"], rel=0.03)


SIZES = {
    # declared sizes, max_share -> shares
    "two banks count alike at a half": ((6000, 60), 0.5, (0.5, 0.5)),
    "nobody exceeds": ((100, 200, 300), 0.5, (1 / 6, 2 / 6, 3 / 6)),
    "one of 10^15": ((10**15, 60, 60), 0.5, (0.5, 0.25, 0.25)),
    "capping the first lifts the second": ((100, 90, 10), 0.4, (0.4, 0.4, 0.2)),
    "three at the limit, one small": ((10**9, 10**8, 10**7, 1), 0.3, (0.3, 0.3, 0.3, 0.1)),
    "no limit": ((900, 50, 50), 1.0, (0.9, 0.05, 0.05)),
    "too few banks for the limit": ((900, 50, 50), 0.3, (1 / 3, 1 / 3, 1 / 3)),
    "as few as the limit allows": ((900, 50, 50), 1 / 3, (1 / 3, 1 / 3, 1 / 3)),
    "one bank alone": ((900,), 0.5, (1.0,)),
}


@pytest.mark.parametrize("row", SIZES.values(), ids=SIZES.keys())
def test_shares(row: tuple[tuple[int, ...], float, tuple[float, ...]]) -> None:
    sizes, most, expected = row
    assert _shares({str(number): float(size) for number, size in enumerate(sizes)}, most) == pytest.approx(expected)


def test_no_sizes_at_all_give_anybody_more_than_the_limit_and_order_is_kept() -> None:
    rng = np.random.default_rng(1)
    for _ in range(3000):
        count, most = int(rng.integers(1, 9)), float(rng.choice([0.15, 0.25, 1 / 3, 0.5, 0.8, 1.0]))
        sizes = {str(number): float(10 ** rng.uniform(0, 15)) for number in range(count)}
        shares = _shares(sizes, most)
        assert max(shares) <= max(most, 1 / count) * (1 + 1e-9)
        ordered = [share for _, share in sorted(zip(sizes.values(), shares, strict=True))]
        assert all(low <= high * (1 + 1e-9) for low, high in pairwise(ordered))


def test_weights_within_the_limit_are_not_touched() -> None:
    weights = {"a": 60.0, "b": 60.0, "c": 110.0}
    assert capped_weights(weights, 0.5) == weights


def _shares(sizes: Mapping[str, float], most: float) -> tuple[float, ...]:
    capped = capped_weights(sizes, most)
    assert list(capped) == list(sizes)
    total = math.fsum(capped.values())
    return tuple(weight / total for weight in capped.values())
