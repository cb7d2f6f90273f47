"""The scheduler's promises, each with a moment at which it could be broken. No clock, no model."""

import random

import pytest

from fedbank.errors import FedBankError
from fedbank.serving.engines.batching import Limits, Scheduler
from fedbank.serving.engines.interface import BACKGROUND, INTERACTIVE, BusyError, RequestError


def scheduler(**limits: float) -> Scheduler:
    return Scheduler(Limits(**{"max_running": 4, "max_waiting": 8, "window_s": 0.1} | limits))  # type: ignore[arg-type]


def test_a_batch_begins_when_it_is_full() -> None:
    queue = scheduler()
    for key in "abcd":
        assert queue.take(0.0) == []
        queue.offer(key, INTERACTIVE, 10, 0.0)
    assert queue.take(0.0) == ["a", "b", "c", "d"]


def test_a_batch_begins_when_the_first_has_waited_for_the_window() -> None:
    queue = scheduler()
    queue.offer("a", INTERACTIVE, 10, 0.0)
    queue.offer("b", INTERACTIVE, 10, 0.09)
    assert queue.next_event(0.09) == pytest.approx(0.1)
    assert queue.take(0.099) == []
    assert queue.take(0.1) == ["a", "b"]


def test_others_join_while_a_batch_runs_as_soon_as_a_slot_is_free() -> None:
    queue = scheduler(max_running=2, window_s=0)
    for key in "abc":
        queue.offer(key, INTERACTIVE, 10, 0.0)
    assert queue.take(0.0) == ["a", "b"]
    assert queue.take(5.0) == []
    queue.leave("b", 6.0)
    assert queue.take(6.0) == ["c"]
    assert queue.running == 2


def test_the_queue_is_bounded_and_says_when_to_come_again() -> None:
    queue = scheduler(max_waiting=2)
    queue.offer("a", INTERACTIVE, 10, 0.0)
    queue.offer("b", INTERACTIVE, 10, 0.0)
    with pytest.raises(BusyError) as refused:
        queue.offer("c", INTERACTIVE, 10, 0.0)
    assert refused.value.retry_after_s is not None
    assert 1 <= refused.value.retry_after_s <= 60
    assert queue.waiting == 2


def test_the_advice_to_come_again_grows_with_how_long_answers_take() -> None:
    quick, slow = scheduler(window_s=0), scheduler(window_s=0)
    for queue, taken in ((quick, 0.01), (slow, 100.0)):
        for number in range(30):
            queue.offer(str(number), INTERACTIVE, 10, 0.0)
            queue.take(0.0)
            queue.leave(str(number), taken)
        for number in range(8):
            queue.offer(f"waits {number}", INTERACTIVE, 10, 0.0)
    assert quick.retry_after_s() == 1
    assert slow.retry_after_s() == 60


def test_background_requests_take_at_most_half_of_the_slots_and_of_the_queue() -> None:
    queue = scheduler(window_s=0)
    for key in "abcd":
        queue.offer(key, BACKGROUND, 10, 0.0)
    with pytest.raises(BusyError):
        queue.offer("e", BACKGROUND, 10, 0.0)
    assert queue.take(0.0) == ["a", "b"]
    queue.offer("person", INTERACTIVE, 10, 1.0)
    assert queue.take(1.0) == ["person"]


def test_a_person_goes_before_background_requests_that_came_earlier() -> None:
    queue = scheduler(max_running=1, window_s=0, patience_s=10)
    queue.offer("job", BACKGROUND, 10, 0.0)
    queue.offer("person", INTERACTIVE, 10, 9.0)
    assert queue.take(9.0) == ["person"]


def test_a_background_request_is_served_although_people_never_stop_coming() -> None:
    queue = scheduler(max_running=1, max_waiting=100, window_s=0, patience_s=10)
    queue.offer("job", BACKGROUND, 10, 0.0)
    for second in range(30):
        queue.offer(f"person {second} first", INTERACTIVE, 10, float(second))
        queue.offer(f"person {second} second", INTERACTIVE, 10, float(second))
        (running,) = queue.take(float(second))
        if running == "job":
            assert second >= 10
            return
        queue.leave(running, second + 1.0)
    pytest.fail("the background request starved")


def test_a_padded_batch_stays_within_the_tokens_that_fit() -> None:
    queue = scheduler(max_tokens=100, window_s=0)
    queue.offer("short", INTERACTIVE, 10, 0.0)
    queue.offer("long", INTERACTIVE, 50, 0.0)
    queue.offer("third", INTERACTIVE, 10, 0.0)
    assert queue.take(0.0) == ["short", "long"]  # a third would be padded: 3 x 50
    with pytest.raises(RequestError):
        queue.offer("endless", INTERACTIVE, 101, 0.0)


def test_small_requests_do_not_go_past_a_large_one_that_waits_for_room() -> None:
    queue = scheduler(max_tokens=100, window_s=0)
    queue.offer("runs", INTERACTIVE, 40, 0.0)
    assert queue.take(0.0) == ["runs"]
    queue.offer("large", INTERACTIVE, 90, 1.0)
    queue.offer("small", INTERACTIVE, 10, 1.5)
    assert queue.take(2.0) == []
    queue.leave("runs", 3.0)
    assert queue.take(3.0) == ["large"]


def test_cancelling_frees_the_place_whether_it_waits_or_runs() -> None:
    queue = scheduler(max_running=1, window_s=0)
    for key in "abc":
        queue.offer(key, INTERACTIVE, 10, 0.0)
    assert queue.take(0.0) == ["a"]
    queue.leave("b", 0.0)
    queue.leave("a", 0.0)
    queue.leave("never seen", 0.0)
    assert queue.take(0.0) == ["c"]


def test_nobody_waits_longer_than_the_limit() -> None:
    queue = scheduler(max_running=1, window_s=0, max_wait_s=30)
    queue.offer("a", INTERACTIVE, 10, 0.0)
    queue.take(0.0)
    queue.offer("b", INTERACTIVE, 10, 1.0)
    assert queue.first_overdue() == 31.0
    assert queue.overdue(30.9) == []
    assert queue.overdue(31.0) == ["b"]
    assert queue.waiting == 0


@pytest.mark.parametrize("wrong", [{"max_running": 0}, {"window_s": -1.0}, {"max_wait_s": float("nan")}])
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(FedBankError, match="Expected limits"):
        scheduler(**wrong)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_every_request_ends_once_and_the_bounds_hold(seed: int) -> None:
    rng, now, number = random.Random(seed), 0.0, 0
    queue = scheduler(max_tokens=400, max_wait_s=20)
    open_ones: set[str] = set()
    sizes: dict[str, int] = {}
    running: set[str] = set()
    for _ in range(600):
        now += rng.random() / 5
        if rng.random() < 0.6:
            key, number = str(number), number + 1
            sizes[key] = rng.randint(1, 150)
            try:
                queue.offer(key, rng.choice([INTERACTIVE, BACKGROUND]), sizes[key], now)
                open_ones.add(key)
            except BusyError:
                pass
        joined = queue.take(now)
        assert not running & set(joined)
        running |= set(joined)
        late = queue.overdue(now)
        assert not set(late) & running
        open_ones -= set(late)
        if running and rng.random() < 0.5:
            gone = rng.choice(sorted(running))
            queue.leave(gone, now)
            running.remove(gone)
            open_ones.remove(gone)
        assert running <= open_ones
        assert len(running) == queue.running <= 4
        assert queue.waiting == len(open_ones) - len(running) <= 8
        assert len(running) * max((sizes[key] for key in running), default=0) <= 400
