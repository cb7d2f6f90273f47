"""Grouping by customer and splitting by customer."""

import numpy as np
import pytest

from fedbank.data.inquiry import Inquiry
from fedbank.data.units import Unit, group_by_customer, split_units
from fedbank.errors import ConfigError, DataError


def _inquiry(customer: str, key: str, question: str = "q") -> Inquiry:
    return Inquiry(question, "a", customer, key)


def _units(count: int) -> list[Unit]:
    return group_by_customer(_inquiry(f"c{i}", "k") for i in range(count))


def test_groups_keep_the_order_first_seen() -> None:
    log = [_inquiry("b", "k", "1"), _inquiry("a", "k", "2"), _inquiry("b", "k", "3")]
    units = group_by_customer(log)
    assert [unit.customer for unit in units] == ["b", "a"]
    assert [inquiry.question for inquiry in units[0].inquiries] == ["1", "3"]
    assert units[1].inquiries == (log[1],)
    assert group_by_customer([]) == []


@pytest.mark.parametrize(
    ("keys", "usual"),
    [("x", "x"), ("xyy", "y"), ("xyyx", "x"), ("yxxy", "y"), ("zxyxy", "x"), (["", "", "x"], "")],
)
def test_key_is_the_most_frequent_then_the_first_seen(keys: str | list[str], usual: str) -> None:
    assert group_by_customer(_inquiry("c", key) for key in keys)[0].key == usual


@pytest.mark.parametrize(
    ("count", "fraction", "at_least", "held_count"),
    [(10, 0.2, 1, 2), (10, 0.0, 1, 1), (10, 0.01, 3, 3), (10, 0.94, 1, 9), (2, 0.5, 1, 1), (500, 0.1, 1, 50)],
)
def test_split_sizes_and_order(count: int, fraction: float, at_least: int, held_count: int) -> None:
    units = _units(count)
    rest, held = split_units(units, fraction, rng=np.random.default_rng(1), at_least=at_least)
    assert len(held) == held_count
    assert sorted(rest + held, key=units.index) == units
    assert rest == sorted(rest, key=units.index) and held == sorted(held, key=units.index)
    assert not {unit.customer for unit in rest} & {unit.customer for unit in held}


def test_split_is_the_generators_choice() -> None:
    units = _units(50)
    first, again, other = (split_units(units, 0.3, rng=np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_every_customer_is_held_out_equally_often() -> None:
    rng, units = np.random.default_rng(3), _units(10)
    counts = dict.fromkeys((unit.customer for unit in units), 0)
    for _ in range(2000):
        for unit in split_units(units, 0.3, rng=rng)[1]:
            counts[unit.customer] += 1
    # Binomial(2000, 0.3) has standard deviation 20.5; five of them.
    assert all(abs(count - 600) < 103 for count in counts.values())


@pytest.mark.parametrize(
    ("count", "fraction", "at_least", "fragments"),
    [
        (0, 0.5, 1, ["got 0", "1 would be held out"]),
        (1, 0.5, 1, ["got 1", "1 would be held out", "more customers"]),
        (5, 1.0, 1, ["got 5", "5 would be held out"]),
        (5, 0.1, 5, ["at least 5"]),
        (5, 0.0, 0, ["0 would be held out", "fraction 0.0"]),
    ],
)
def test_an_empty_side_is_refused(count: int, fraction: float, at_least: int, fragments: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        split_units(_units(count), fraction, rng=np.random.default_rng(0), at_least=at_least)
    assert all(fragment in str(caught.value) for fragment in fragments)


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        split_units(_units(5), fraction, rng=np.random.default_rng(0))


def test_one_customer_in_two_units_is_a_programmers_error() -> None:
    with pytest.raises(ValueError, match="same customer"):
        split_units(_units(3) + _units(1), 0.5, rng=np.random.default_rng(0))
    with pytest.raises(ConfigError, match="at least"):
        split_units(_units(3), 0.5, rng=np.random.default_rng(0), at_least=-1)
