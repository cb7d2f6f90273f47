"""What a page may say: when a run is private, which way a comparison goes, how a bound is rounded."""

import pytest
from run_folder import FINAL, edit_results, write_run

from fedbank_simulations.report.estimates import wilson_interval
from fedbank_simulations.report.load import load_run
from fedbank_simulations.report.words import (
    at_most,
    duration,
    is_private,
    percent,
    points,
    signed,
    significant,
    size,
    verdict,
)


def private_but(change):
    def build(folder):
        edit_results(write_run(folder), change)
        return folder

    return build


@pytest.mark.parametrize(
    ("build", "private"),
    [
        (write_run, True),
        (lambda folder: write_run(folder, epsilon=None), False),
        (private_but(lambda document: document.update(private=False)), False),
        (private_but(lambda document: document["privacy"]["bank-2"].update(epsilon=None)), False),
        (private_but(lambda document: document["privacy"]["bank-2"].update(epsilon=float("inf"))), False),
        (private_but(lambda document: document["privacy"].pop("bank-2")), False),
        (private_but(lambda document: document.update(privacy={})), False),
    ],
    ids=["private", "off", "says no", "one bank null", "one bank infinite", "one bank missing", "no bank"],
)
def test_private_only_if_every_bank_has_an_epsilon(tmp_path, build, private):
    folder = build(tmp_path / "run")
    assert is_private(load_run(folder)) == private


@pytest.mark.parametrize(
    ("federated", "words"),
    [
        ((0.5, 0.9), "is better than the base model and better than the average bank alone."),
        ((1.5, 0.4), "is better than the base model and worse than the average bank alone."),
        ((2.5, 0.1), "is worse than the base model and worse than the average bank alone."),
        ((1.5, 0.9), "and mixed against the average bank alone (more exact answers, higher loss)."),
        ((0.5, 0.4), "and mixed against the average bank alone (fewer exact answers, lower loss)."),
        ((1.245, 0.47), "and level with the average bank alone."),
        ((1.22, 0.47), "and better than the average bank alone."),
        ((1.245, 0.51), "and better than the average bank alone."),
        (FINAL["local_only"], "and level with the average bank alone."),
    ],
)
def test_headline_says_what_the_figures_say(tmp_path, federated, words):
    assert verdict(load_run(write_run(tmp_path / "run", final=federated))).endswith(words)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (3.97, "3.97"),
        (3.9701, "3.98"),
        (0.99901, "1"),
        (12.31, "12.4"),
        (1e-5, "1e-5"),
        (1.0001e-5, "1.01e-5"),
        (0.0, "0"),
    ],
)
def test_a_bound_is_never_rounded_down(value, shown):
    assert at_most(value) == shown


def test_units():
    assert [size(count).replace("\u202f", " ") for count in (0, 999, 1000, 3_400_000)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "3.4 MB",
    ]
    assert duration(59.95).replace("\u202f", " ") == "60.0 s"
    assert duration(3725).replace("\u202f", " ") == "1 h 2 min"
    assert {percent(None), significant(float("nan")), size(None), duration(float("inf")), at_most(None)} == {"—"}


@pytest.mark.parametrize(
    ("value", "shown"), [(-0.887, "−0.887"), (0.2, "+0.200"), (-0.0001, "+0.000"), (float("nan"), "—"), (None, "—")]
)
def test_differences_carry_their_sign(value, shown):
    assert signed(value) == shown
    assert points(0.302).replace("\u202f", " ") == "+30.2 pp"


def test_wilson_interval():
    # Published values (Newcombe 1998, table I, method 3): 81 of 263 and 0 of 20.
    assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0.0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
