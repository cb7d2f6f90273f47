"""Dividing customers among banks: nothing lost, sizes and mixes as asked, plain refusals."""

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from fedbank.data.units import Unit
from fedbank.errors import ConfigError, DataError
from fedbank_simulations.partition import PartitionSpec, partition

KEY_SIZES = {"loans": 400, "cards": 250, "accounts": 150, "fraud": 100, "fees": 60, "travel": 40}
SPECS = [
    PartitionSpec("key", 3),
    PartitionSpec("key", 6, size_exponent=1.0),
    PartitionSpec("iid", 1),
    PartitionSpec("iid", 7),
    PartitionSpec("iid", 12, size_exponent=1.5),
    PartitionSpec("dirichlet", 1),
    PartitionSpec("dirichlet", 7),
    PartitionSpec("dirichlet", 12, alpha=0.01, size_exponent=1.0),
    PartitionSpec("dirichlet", 5, alpha=1e-9),
    PartitionSpec("dirichlet", 5, alpha=1e6),
]


def _units(sizes: dict[str, int] | None = None) -> list[Unit]:
    keys = np.repeat(list(sizes or KEY_SIZES), list((sizes or KEY_SIZES).values()))
    shuffled = np.random.default_rng(99).permutation(keys).tolist()
    return [Unit(f"c{i}", key, ()) for i, key in enumerate(shuffled)]


def _divide(spec: PartitionSpec, seed: int = 0, units: list[Unit] | None = None) -> dict[str, list[Unit]]:
    return partition(_units() if units is None else units, spec, rng=np.random.default_rng(seed))


def _mean_largest_share(divided: dict[str, list[Unit]]) -> float:
    return float(np.mean([max(Counter(u.key for u in own).values()) / len(own) for own in divided.values()]))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_every_customer_once_in_order_and_again_the_same(spec: PartitionSpec) -> None:
    units = _units()
    divided = _divide(spec)
    assert len(divided) == spec.banks
    assert sorted(u.customer for own in divided.values() for u in own) == sorted(u.customer for u in units)
    place = {unit.customer: index for index, unit in enumerate(units)}
    for own in divided.values():
        assert [place[u.customer] for u in own] == sorted(place[u.customer] for u in own)
    assert _divide(spec) == divided


@pytest.mark.parametrize("kind", ["iid", "dirichlet"])
def test_another_seed_divides_differently(kind: Any) -> None:
    assert _divide(PartitionSpec(kind, 4), seed=1) != _divide(PartitionSpec(kind, 4), seed=2)


@pytest.mark.parametrize(
    ("banks", "first", "last"), [(1, "bank-1", "bank-1"), (9, "bank-1", "bank-9"), (10, "bank-01", "bank-10")]
)
def test_names(banks: int, first: str, last: str) -> None:
    names = list(_divide(PartitionSpec("iid", banks)))
    assert (names[0], names[-1]) == (first, last)
    assert names == sorted(names)


@pytest.mark.parametrize("kind", ["iid", "dirichlet"])
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_sizes_follow_the_power_law_to_one_customer(kind: Any, exponent: float) -> None:
    divided = _divide(PartitionSpec(kind, 8, alpha=0.05, size_exponent=exponent))
    share = np.arange(1, 9) ** -exponent
    expected = 1000 * share / share.sum()
    assert np.all(np.abs([len(own) for own in divided.values()] - expected) < 1)


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_by_key_sizes_follow_the_power_law_to_one_key(exponent: float) -> None:
    sizes = {f"k{i:03d}": 5 + i % 7 for i in range(200)}
    divided = _divide(PartitionSpec("key", 8, size_exponent=exponent), units=_units(sizes))
    share = np.arange(1, 9) ** -exponent
    expected = sum(sizes.values()) * share / share.sum()
    assert np.all(np.abs([len(own) for own in divided.values()] - expected) <= 11)


def test_by_key_each_key_is_at_one_bank_and_the_generator_is_not_used() -> None:
    divided = _divide(PartitionSpec("key", 3), seed=1)
    homes = Counter(key for own in divided.values() for key in {u.key for u in own})
    assert homes == dict.fromkeys(KEY_SIZES, 1)
    assert divided == _divide(PartitionSpec("key", 3), seed=2)
    # Largest first to the smallest bank: 400 | 250 + 60 | 150 + 100 + 40.
    assert [len(own) for own in divided.values()] == [400, 310, 290]
    rng = np.random.default_rng(5)
    partition(_units(), PartitionSpec("key", 3), rng=rng)
    assert rng.random() == np.random.default_rng(5).random()


def test_smaller_alpha_is_more_skewed_and_large_alpha_is_iid() -> None:
    def skew(kind: Any, alpha: float) -> float:
        spec = PartitionSpec(kind, 10, alpha=alpha)
        return float(np.mean([_mean_largest_share(_divide(spec, seed)) for seed in range(10)]))

    shares = [skew("dirichlet", alpha) for alpha in (0.01, 0.3, 1.0, 10.0)]
    assert all(left > right + 0.02 for left, right in pairwise(shares))
    assert shares[0] > 0.65  # the commonest key has 0.4 of all customers
    assert abs(skew("dirichlet", 1e5) - skew("iid", 0.5)) < 0.02


def test_mixes_have_the_variance_of_the_dirichlet() -> None:
    """Two keys of equal frequency and few banks: the law of the first bank's mix is Beta(alpha, alpha)."""
    units = _units({"x": 5000, "y": 5000})
    spec = PartitionSpec("dirichlet", 200, alpha=2.0)
    mixes = [np.mean([u.key == "x" for u in own]) for own in _divide(spec, units=units).values()]
    # Beta(2, 2) has variance 1/20; drawing 50 customers adds mean(q(1-q))/50 = 0.2/50.
    assert np.mean(mixes) == pytest.approx(0.5)
    assert np.var(mixes) == pytest.approx(0.054, rel=0.25)


def test_iid_banks_all_have_the_mix_of_the_whole() -> None:
    for own in _divide(PartitionSpec("iid", 4)).values():
        for key, size in KEY_SIZES.items():
            share = size / 1000
            five_sigma = 5 * np.sqrt(share * (1 - share) / 250)
            assert abs(np.mean([u.key == key for u in own]) - share) < five_sigma


@pytest.mark.parametrize(
    ("spec", "fragments"),
    [
        (PartitionSpec("key", 7), ["got 6 keys for 7 banks", "at most 6 banks"]),
        (PartitionSpec("key", 3, min_customers=300), ["at least 300", "got 290 at bank-3", "fewer banks"]),
        (PartitionSpec("iid", 1001), ["at least 1 ", "got 0 at bank-1001", "1000 customers", "1001 banks"]),
        (PartitionSpec("iid", 20, size_exponent=4.0), ["got 0 at bank-", "smaller size_exponent"]),
        (PartitionSpec("dirichlet", 10, min_customers=101), ["at least 101", "got 100 at bank-01"]),
    ],
    ids=str,
)
def test_what_cannot_be_divided_is_refused(spec: PartitionSpec, fragments: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        _divide(spec)
    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.mark.parametrize("kind", ["key", "iid", "dirichlet"])
def test_no_customers_is_refused(kind: Any) -> None:
    with pytest.raises(DataError, match="got 0"):
        _divide(PartitionSpec(kind, 2), units=[])


def test_one_customer_in_two_units_is_a_programmers_error() -> None:
    with pytest.raises(ValueError, match="same customer"):
        _divide(PartitionSpec("iid", 2), units=_units() + _units()[:1])


@pytest.mark.parametrize(
    ("values", "fragment"),
    [
        ({"kind": "zipf"}, "key, dirichlet or iid, got 'zipf'"),
        ({"banks": 0}, "1 bank or more, got 0"),
        ({"alpha": 0.0}, "alpha above 0"),
        ({"alpha": float("inf")}, "alpha above 0"),
        ({"size_exponent": -1.0}, "size_exponent from 0 to 10"),
        ({"size_exponent": float("nan")}, "size_exponent from 0 to 10"),
        ({"min_customers": 0}, "min_customers of 1 or more"),
    ],
)
def test_spec_values_out_of_range(values: dict[str, Any], fragment: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PartitionSpec(**(dict[str, Any](kind="iid", banks=2) | values))
    assert fragment in str(caught.value)


@pytest.mark.parametrize("spec", [PartitionSpec(kind, 256, 0.1, 0.5) for kind in ("key", "iid", "dirichlet")], ids=str)
def test_100_000_customers_among_256_banks(spec: PartitionSpec) -> None:
    units = [Unit(f"c{i}", f"k{i % 997}", ()) for i in range(100_000)]
    divided = _divide(spec, units=units)
    assert len(divided) == 256
    assert sum(len(own) for own in divided.values()) == 100_000
