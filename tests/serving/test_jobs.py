"""Batch jobs: kept, worked off by anybody, each item answered once in the record, whatever happens to a worker."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from bank_records import NOW, open_records

from fedbank.serving.store.jobs import Asked, Item, JobError, JobLimits, Jobs

ME, OTHER = "a" * 32, "b" * 32


def _jobs(folder: Path, **limits: object) -> Jobs:
    return Jobs(open_records(folder), JobLimits(**limits))  # type: ignore[arg-type]


def _batch(count: int, customer: str = "C-1") -> list[Asked]:
    return [Asked(customer, f"question {number}") for number in range(count)]


def _after(**time: float) -> datetime:
    return NOW + timedelta(**time)


def _claim(jobs: Jobs, worker: str = "w", now: datetime = NOW) -> Item:
    item = jobs.claim(worker, now)
    assert item is not None
    return item


def _work_off(jobs: Jobs, worker: str = "w", now: datetime = NOW) -> list[str]:
    done = []
    while item := jobs.claim(worker, now):
        assert jobs.record(item, f"answer to {item.question}", f"r-{item.number}", now)
        done.append(item.question)
    return done


def test_a_batch_is_answered_in_order_and_read_by_who_handed_it_in(tmp_path: Path) -> None:
    jobs = _jobs(tmp_path)
    job = jobs.submit(ME, _batch(3), NOW)
    assert jobs.progress(job, ME, NOW).waiting == 3
    assert _work_off(jobs) == ["question 0", "question 1", "question 2"]
    progress = jobs.progress(job, ME, NOW)
    assert progress.is_over and (progress.total, progress.answered, progress.erased) == (3, 3, 0)
    items = jobs.items(job, ME)
    assert [item.answer for item in items] == [f"answer to question {number}" for number in range(3)]
    assert [(item.number, item.request_id, item.state) for item in items] == [
        (n, f"r-{n}", "answered") for n in range(3)
    ]


def test_a_job_outlives_the_process(tmp_path: Path) -> None:
    jobs = _jobs(tmp_path)
    job = jobs.submit(ME, _batch(3), NOW)
    jobs.record(_claim(jobs), "first", "r", NOW)
    again = _jobs(tmp_path)
    assert again.progress(job, ME, NOW).answered == 1
    assert _work_off(again) == ["question 1", "question 2"]
    assert again.items(job, ME)[0].answer == "first"


@pytest.mark.parametrize("who", [OTHER, "", ME.upper()])
def test_a_job_is_its_owners_alone(who: str, tmp_path: Path) -> None:
    jobs = _jobs(tmp_path)
    job = jobs.submit(ME, _batch(1), NOW)
    said = set()
    for wrong_job, owner in ((job, who), ("job-invented", ME)):
        for act in (
            lambda: jobs.items(wrong_job, owner),  # noqa: B023
            lambda: jobs.cancel(wrong_job, owner),  # noqa: B023
            lambda: jobs.progress(wrong_job, owner, NOW),  # noqa: B023
        ):
            with pytest.raises(JobError) as refused:
                act()
            said.add(str(refused.value).replace(wrong_job, "JOB"))
    assert len(said) == 1
    assert jobs.progress(job, ME, NOW).waiting == 1


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ([], "1 to 5 questions"),
        (_batch(6), "1 to 5 questions"),
        ([Asked("C-1", "x" * 101)], "at most 100 characters"),
    ],
)
def test_a_batch_that_is_too_large_is_refused(asked: list[Asked], words: str, tmp_path: Path) -> None:
    jobs = _jobs(tmp_path, max_items=5, max_characters=100)
    with pytest.raises(JobError, match=words):
        jobs.submit(ME, asked, NOW)
    assert jobs.claim("w", NOW) is None


def test_nobody_has_more_jobs_open_than_allowed(tmp_path: Path) -> None:
    jobs = _jobs(tmp_path, open_jobs=2)
    first, _ = jobs.submit(ME, _batch(2), NOW), jobs.submit(ME, _batch(1), NOW)
    with pytest.raises(JobError, match="at most 2 jobs"):
        jobs.submit(ME, _batch(1), NOW)
    jobs.submit(OTHER, _batch(1), NOW)
    jobs.cancel(first, ME)
    jobs.submit(ME, _batch(1), NOW)


def test_of_two_answers_to_one_item_the_record_has_the_first(tmp_path: Path) -> None:
    jobs = _jobs(tmp_path, claim=timedelta(minutes=1))
    job = jobs.submit(ME, _batch(1), NOW)
    slow = _claim(jobs, "slow")
    assert jobs.claim("fast", _after(seconds=59)) is None, "it is being worked on"
    fast = _claim(jobs, "fast", _after(seconds=60))
    assert (fast.job_id, fast.number) == (slow.job_id, slow.number)
    assert jobs.record(fast, "first", "r-fast", _after(seconds=61))
    assert not jobs.record(slow, "second", "r-slow", _after(seconds=62))
    assert not jobs.record(fast, "third", "r-fast", _after(seconds=63))
    assert [(item.answer, item.request_id) for item in jobs.items(job, ME)] == [("first", "r-fast")]


def test_a_worker_that_starts_again_takes_up_its_own_at_once_and_nobody_elses(tmp_path: Path) -> None:
    jobs = _jobs(tmp_path)
    jobs.submit(ME, _batch(2), NOW)
    _claim(jobs, "one"), _claim(jobs, "two")
    assert jobs.claim("one", NOW) is None
    assert jobs.resume("one") == 1
    assert _claim(jobs, "one").question == "question 0"
    assert jobs.claim("one", NOW) is None


def test_an_item_at_which_every_worker_dies_is_given_up(tmp_path: Path) -> None:
    jobs = _jobs(tmp_path, max_attempts=3)
    job = jobs.submit(ME, _batch(2), NOW)
    seen = []
    for _ in range(8):
        if item := jobs.claim("w", NOW):
            seen.append(item.number)
            if item.number == 1:
                jobs.record(item, "fine", "r", NOW)
        jobs.resume("w")
    assert seen.count(0) == 3 and seen.count(1) == 1
    progress = jobs.progress(job, ME, NOW)
    assert (progress.failed, progress.answered, progress.is_over) == (1, 1, True)


def test_a_cancelled_job_keeps_its_answers_and_takes_no_more(tmp_path: Path) -> None:
    jobs = _jobs(tmp_path)
    job = jobs.submit(ME, _batch(3), NOW)
    jobs.record(_claim(jobs), "kept", "r", NOW)
    in_work = _claim(jobs)
    progress = jobs.cancel(job, ME)
    assert (progress.answered, progress.cancelled, progress.is_over) == (1, 2, True)
    assert not jobs.record(in_work, "too late", "r", NOW)
    assert jobs.claim("w", NOW) is None
    assert [item.answer for item in jobs.items(job, ME)] == ["kept", "", ""]
    assert jobs.cancel(job, ME) == progress


def test_a_job_expires(tmp_path: Path) -> None:
    jobs = _jobs(tmp_path, lifetime=timedelta(hours=1))
    job = jobs.submit(ME, _batch(3), NOW)
    jobs.record(_claim(jobs), "kept", "r", NOW)
    in_work = _claim(jobs, now=_after(minutes=59))
    assert not jobs.record(in_work, "too late", "r", _after(hours=1))
    assert jobs.claim("w", _after(hours=1)) is None
    progress = jobs.progress(job, ME, _after(hours=2))
    assert (progress.answered, progress.expired, progress.is_over) == (1, 2, True)


def test_an_erased_customers_items_are_gone_and_the_others_go_on(tmp_path: Path) -> None:
    records = open_records(tmp_path)
    jobs = Jobs(records)
    job = jobs.submit(ME, [*_batch(2, "C-1"), *_batch(1, "C-2")], NOW)
    in_work = _claim(jobs)
    records.erase("C-1")
    assert not jobs.record(in_work, "too late", "r", NOW), "an answer does not bring an erased customer back"
    assert records.erase("C-1").keys == 0
    assert len(_work_off(jobs)) == 1
    progress = jobs.progress(job, ME, NOW)
    assert (progress.answered, progress.erased, progress.is_over) == (1, 2, True)


def test_a_large_job_does_not_stand_in_front_of_one_that_was_tried_less(tmp_path: Path) -> None:
    jobs = _jobs(tmp_path)
    jobs.submit(ME, _batch(2), NOW)
    first = _claim(jobs)
    jobs.resume("w")
    assert _claim(jobs).number != first.number, "an item that failed waits behind those that did not"
