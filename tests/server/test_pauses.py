"""A member cannot have the whole adapter sent to it without end."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fedbank.adapter.update import Update
from fedbank.aggregation.terms import DeadlineRule
from fedbank_server.pauses import Pauses


def test_a_bank_whose_calls_are_lost_again_and_again_is_called_ever_more_rarely() -> None:
    pauses, now, calls = Pauses(), 0.0, 0
    while now < 600:
        if not pauses.lasts("bank-1", now):
            calls += 1
            pauses.lost("bank-1", now)
        now += 0.05
    assert calls <= 20
    assert not pauses.lasts("bank-2", now), "each bank by itself"


def test_the_first_losses_cost_no_time() -> None:
    """A bank that is restarted is to be found at once."""
    pauses = Pauses()
    for _ in range(3):
        pauses.lost("bank-1", 10.0)
        assert not pauses.lasts("bank-1", 10.0)


def test_an_old_update_in_answer_to_this_rounds_call_is_a_refusal(make_consortium: Callable[..., Any]) -> None:
    """It was asked once and answered with a signed update to round 0, which no round can use."""
    rule = DeadlineRule(factor=1.0, floor_s=1.0, ceiling_s=1.0)
    c = make_consortium(quorum=2, deadline=rule, rounds=1)

    def to_round_nought(update: Update) -> Update:
        return replace(update, round=0)

    c.banks["bank-3"].act = to_round_nought
    c.run()
    (line,) = c.store.history.lines()
    assert set(line.accepted) == {"bank-1", "bank-2"}
    assert [(r["bank"], r["check"]) for r in line.refused] == [("bank-3", "late")]
    assert len(c.banks["bank-3"].asked()) == 1
