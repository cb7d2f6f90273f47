"""A release on its way to customers: who is answered by which one, what the gates say, and the ways back."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from fedbank.serving.rollout.stages import (
    Candidate,
    Gates,
    Rollout,
    RolloutError,
    Stage,
    Tally,
    Verdict,
    interval,
    judge,
)

NOW = datetime(2027, 1, 1, tzinfo=UTC)
STABLE = Rollout(stable="spring")


def test_the_first_release_is_stable_at_once_and_a_second_begins_in_the_shadow() -> None:
    first = Rollout().begin("spring", 0.1, NOW)
    assert first == STABLE
    second = first.begin("autumn", 0.1, NOW)
    assert second.stable == "spring" and second.candidate is not None
    assert second.candidate.stage is Stage.SHADOW
    assert {second.release_for(f"conversation {number}") for number in range(500)} == {"spring"}


def test_a_candidate_goes_from_shadow_to_canary_to_stable_and_back() -> None:
    canary = STABLE.begin("autumn", 0.1, NOW).promote(0.2, NOW)
    assert canary.candidate is not None and canary.candidate.stage is Stage.CANARY
    done = canary.promote(1.0, NOW)
    assert done == Rollout(stable="autumn", previous="spring")
    assert done.roll_back() == Rollout(stable="spring"), "a release that was given up is not the one to go back to"
    assert canary.roll_back() == STABLE


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (lambda: STABLE.begin("spring", 0.1, NOW), "got spring"),
        (lambda: STABLE.begin("autumn", 0.1, NOW).begin("winter", 0.1, NOW), "got autumn"),
        (lambda: STABLE.begin("autumn", 0.0, NOW), "above 0"),
        (lambda: STABLE.begin("autumn", float("nan"), NOW), "above 0"),
        (lambda: STABLE.begin("autumn", 0.1, NOW).promote(1.5, NOW), "at most 1"),
        (lambda: STABLE.promote(0.1, NOW), "on its way, got none"),
        (lambda: STABLE.roll_back(), "got neither"),
    ],
)
def test_a_step_that_is_not_possible_says_why_and_changes_nothing(step: object, said: str) -> None:
    with pytest.raises(RolloutError, match=said):
        step()  # type: ignore[operator]


def test_a_conversation_is_always_answered_by_the_same_release_and_the_share_is_kept() -> None:
    canary = STABLE.begin("autumn", 0.1, NOW).promote(0.2, NOW)
    answered = [canary.release_for(f"conversation {number}") for number in range(5000)]
    assert answered == [canary.release_for(f"conversation {number}") for number in range(5000)]
    assert 0.18 < answered.count("autumn") / 5000 < 0.22
    wider = replace(canary, candidate=replace(canary.candidate, share=0.5))  # type: ignore[type-var]
    again = [wider.release_for(f"conversation {number}") for number in range(5000)]
    assert all(now == "autumn" for before, now in zip(answered, again, strict=True) if before == "autumn")
    assert canary.mirror_for("request 1", "spring") is None, "nobody answers copies any more"


def test_in_the_shadow_a_share_of_the_requests_is_copied() -> None:
    shadow = STABLE.begin("autumn", 0.3, NOW)
    copied = [shadow.mirror_for(f"request {number}", "spring") for number in range(5000)]
    assert 0.27 < copied.count("autumn") / 5000 < 0.33 and set(copied) == {"autumn", None}


def tally(answers: int = 400, failures: int = 0, ms: float = 100.0, agreed: int = 95, probes_right: int = 10) -> Tally:
    bucket = next(iter(Tally().answered(ms, failed=False).milliseconds))
    return Tally(answers, failures, 100, agreed, 10, probes_right, {bucket: answers} if answers else {})


ROWS: list[tuple[str, Tally, Verdict]] = [
    ("all is well", tally(), Verdict.PASS),
    ("too few answers", tally(answers=199), Verdict.WAIT),
    ("none yet", Tally(), Verdict.WAIT),
    ("a failure among many", tally(failures=8), Verdict.PASS),
    ("perhaps too many failures", tally(failures=12), Verdict.WAIT),
    ("surely too many failures", tally(failures=25), Verdict.FAIL),
    ("surely too many, early", tally(answers=20, failures=10), Verdict.FAIL),
    ("slower, within the bound", tally(ms=140), Verdict.PASS),
    ("too slow", tally(ms=200), Verdict.FAIL),
    ("too slow, but hardly any answers", tally(answers=20, ms=200), Verdict.WAIT),
    ("a probe question wrong", tally(probes_right=9), Verdict.FAIL),
    ("perhaps too little agreement", tally(agreed=84), Verdict.WAIT),
    ("surely too little agreement", tally(agreed=60), Verdict.FAIL),
]


@pytest.mark.parametrize(("seen", "verdict"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_the_gates(seen: Tally, verdict: Verdict) -> None:
    candidate = Candidate("autumn", Stage.CANARY, 0.2, NOW, seen, tally(ms=100))
    found = judge(candidate, Gates(agreement=0.8), NOW)
    assert found.verdict is verdict, found.lines


def test_a_candidate_that_shows_too_little_for_a_week_goes() -> None:
    candidate = Candidate("autumn", Stage.SHADOW, 0.2, NOW, tally(answers=3), tally())
    assert judge(candidate, Gates(), NOW + timedelta(days=6)).verdict is Verdict.WAIT
    late = judge(candidate, Gates(), NOW + timedelta(days=8))
    assert late.verdict is Verdict.FAIL and "7 days" in late.lines[-1]


def test_percentiles_are_right_within_nine_percent() -> None:
    seen = Tally()
    for number in range(1, 1001):
        seen = seen.answered(float(number), failed=False)
    for share in (0.5, 0.95, 0.99):
        assert abs(seen.percentile_ms(share) / (1000 * share) - 1) < 0.09


def test_the_interval_is_wilsons() -> None:
    assert interval(0, 0) == (0.0, 1.0)
    low, high = interval(90, 100)  # Newcombe 1998, method 3
    assert (round(low, 4), round(high, 4)) == (0.8256, 0.9448)
    assert interval(0, 10)[0] == 0.0 and interval(10, 10)[1] == 1.0
