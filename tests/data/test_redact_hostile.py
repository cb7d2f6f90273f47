"""Hostile text costs time in proportion to its length, and nothing else."""

import random

import pytest

from fedbank.data.redact import mask
from simulations.benchmarks.redaction import growth, hostile

CHARACTERS, LEAST_CHARACTERS_A_SECOND = 20_000, 2_000
_TEXTS = hostile(CHARACTERS)


@pytest.mark.parametrize("name", _TEXTS)
def test_twice_the_text_takes_at_most_three_times_as_long(name: str) -> None:
    for tries in (3, 6, 24):  # on a busy machine the least of a few is not yet the truth
        line = growth(name, _TEXTS[name], tries=tries)
        assert line["seconds"] * LEAST_CHARACTERS_A_SECOND < CHARACTERS
        if line["seconds"] < 0.05 or line["time_ratio"] <= 3:
            return
    pytest.fail(f"Expected time in proportion to the length, got {line}.")


def test_a_number_in_a_million_characters_is_found() -> None:
    rest = "".join(random.Random(1).choices("请问我想咨询贷款利率，。 abc", k=1_000_000))
    assert mask(rest + "手机13812345678，" + rest) == rest + "手机138****5678，" + rest
