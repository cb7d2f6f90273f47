"""How long a round may take: from measured times, and not to be moved by a few banks."""

from typing import Any

import pytest

from fedbank.aggregation.deadline import time_allowed
from fedbank.errors import ConfigError
from fedbank.membership.terms import DeadlineRule

RULE = DeadlineRule(factor=3.0, floor_s=60.0, ceiling_s=3600.0)
ROWS: dict[str, tuple[dict[str, list[float]], int, int, float]] = {
    # name: times by bank, needed, retries -> seconds
    "first round": ({}, 2, 0, 3600.0),
    "fewer banks measured than needed": ({"a": [100.0]}, 2, 0, 3600.0),
    "the bank that completes the quorum counts": ({"a": [100.0], "b": [200.0], "c": [900.0]}, 2, 0, 600.0),
    "all are needed": ({"a": [100.0], "b": [200.0], "c": [900.0]}, 3, 0, 2700.0),
    "a bank ten times as slow beyond the quorum": ({"a": [100.0], "b": [200.0], "c": [2000.0]}, 2, 0, 600.0),
    "a bank that hurries": ({"a": [0.0], "b": [200.0], "c": [210.0]}, 2, 0, 600.0),
    "one slow round": ({"a": [100.0, 100.0, 1000.0]}, 1, 0, 300.0),
    "only the last rounds": ({"a": [900.0] * 6 + [100.0] * 5}, 1, 0, 300.0),
    "never below the floor": ({"a": [1.0], "b": [1.0]}, 2, 0, 60.0),
    "never above the ceiling": ({"a": [5000.0]}, 1, 0, 3600.0),
    "twice as long at the second attempt": ({"a": [100.0]}, 1, 1, 600.0),
    "four times at the third": ({"a": [100.0]}, 1, 2, 1200.0),
    "after any number of attempts the ceiling": ({"a": [100.0]}, 1, 5000, 3600.0),
    "banks without a time do not count": ({"a": [100.0], "b": []}, 2, 0, 3600.0),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_the_deadline_follows_from_the_times_before(row: Any) -> None:
    seconds, needed, retries, allowed = row
    assert time_allowed(RULE, seconds, needed, retries) == allowed


@pytest.mark.parametrize(
    "wrong",
    [
        {"factor": 0.5},
        {"floor_s": 0.0},
        {"floor_s": 10.0, "ceiling_s": 5.0},
        {"ceiling_s": 1e999},
    ],
    ids=str,
)
def test_a_rule_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="factor"):
        DeadlineRule(**wrong)  # type: ignore[arg-type]
