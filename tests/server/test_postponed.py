"""Banks that train at other hours: they say when, the coordinator waits for them, and nobody makes it wait for ever."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fedbank.adapter.update import Later, Update
from fedbank.aggregation.deadline import DeadlineRule
from fedbank.errors import UpdateError
from fedbank_client.policy import ClosedError
from fedbank_server.post import TRAIN, Asked
from fedbank_server.postponed import Postponed
from fedbank_server.snapshot import BankState

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
AT, DAY = NOON.timestamp(), 86_400.0
EVENING = Later(NOON + timedelta(hours=10)).to_text()
ASKED = Asked(TRAIN, 7, AT + DAY, "bank-a", 3, "first start")


def test_the_hour_is_one_line_of_one_form() -> None:
    assert EVENING == "later: not before 2026-03-01T22:00Z"
    assert Later.from_text(EVENING).until == NOON + timedelta(hours=10)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "later",
        "later: not before 2026-03-01T22:00",
        "later: not before 2026-3-1T22:00Z",
        "later: not before 2026-03-01T22:00Z and Li Wei asked about a loan",
        "later: not before 9999-99-99T99:99Z",
        "refused: the bank could not finish the round",
        "x" * 100_000,
    ],
    ids=lambda text: text[:40],
)
def test_anything_else_is_no_hour_and_counts_as_a_refusal(text: str) -> None:
    with pytest.raises(UpdateError, match="hour"):
        Later.from_text(text)
    refused = Postponed().note(ASKED, 1, text, AT)
    assert refused is not None and (refused.bank, refused.check) == ("bank-a", "hour")
    assert "Li Wei" not in refused.reason


def test_a_bank_is_not_asked_before_its_hour_unless_it_was_started_anew() -> None:
    waiting = Postponed()
    assert waiting.note(ASKED, 1, EVENING, AT) is None
    assert waiting.is_waiting("bank-a", "first start", AT + 10 * 3600)
    assert not waiting.is_waiting("bank-a", "first start", AT + 10 * 3600 + 10)
    assert not waiting.is_waiting("bank-a", "second start", AT)
    assert not waiting.is_waiting("bank-b", "first start", AT)
    assert "2026-03-01 22:00 UTC" in waiting.reason("bank-a")
    assert waiting.hours({"bank-a", "bank-b"}, AT) == [AT + 10 * 3600 + 5]
    waiting.asked("bank-a")
    assert waiting.hours({"bank-a"}, AT) == []


def test_nobody_puts_a_round_off_by_more_than_a_day_at_a_time_nor_without_end() -> None:
    waiting, far = Postponed(), Later(NOON + timedelta(days=400)).to_text()
    assert waiting.note(ASKED, 1, far, AT) is None
    assert waiting.hours({"bank-a"}, AT) == [AT + DAY]
    said = [waiting.note(ASKED, 1, far, AT + n * DAY) for n in range(1, 4)]
    assert said == [None] * 3
    refused = waiting.note(ASKED, 1, far, AT + 4 * DAY)
    assert refused is not None and "again" in refused.reason
    assert waiting.note(ASKED, 2, far, AT + 5 * DAY) is None, "another attempt"


def test_a_round_waits_for_the_hour_of_a_bank_that_its_quorum_needs(make_consortium: Callable[..., Any]) -> None:
    c = make_consortium(quorum=3, deadline=DeadlineRule(factor=1.0, floor_s=2.0, ceiling_s=2.0), rounds=1)
    calls: list[int] = []

    def at_another_hour(update: Update) -> Update:
        calls.append(1)
        if len(calls) == 1:
            raise ClosedError("at another hour", datetime.now(UTC))
        return update

    c.banks["bank-2"].act = at_another_hour
    assert c.run().round == 1
    (line,) = c.store.history.lines()
    assert (line.attempt, line.missing, len(calls)) == (1, [], 2), "within the first attempt, whose deadline was 2 s"
    waited = [status.banks["bank-2"] for status in c.seen.statuses if status.banks["bank-2"].state is BankState.WAITING]
    assert waited and "trains from" in waited[0].reason
    assert c.banks["bank-1"].asked() == [1], "nobody else is asked again"


def test_a_round_that_has_its_quorum_does_not_wait_beyond_its_deadline(make_consortium: Callable[..., Any]) -> None:
    c = make_consortium(quorum=2, deadline=DeadlineRule(factor=1.0, floor_s=2.0, ceiling_s=2.0), rounds=1)

    def tomorrow(update: Update) -> Update:
        raise ClosedError("at another hour", datetime.now(UTC) + timedelta(hours=20))

    c.banks["bank-2"].act = tomorrow
    assert c.run().round == 1
    (line,) = c.store.history.lines()
    assert (line.attempt, line.missing, line.refused) == (1, ["bank-2"], [])
    assert c.banks["bank-2"].asked() == [1]
