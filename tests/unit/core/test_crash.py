"""When to look for a job that kills the process, and when to give it up."""

from typing import Any

import pytest

from pgcdc_outbox.core.crash import careful_jobs, is_suspect, judge_crash
from pgcdc_outbox.core.retry import RetryPolicy
from pgcdc_outbox.job import Failing, History, Job
from pgcdc_outbox.outcome import Dead, Retry


def latest(a: float, b: float) -> float:
    return b


def job(*errors: str, prior_attempts: int = 0) -> Job:
    """A job whose attempts so far failed with these."""
    failings = tuple(
        Failing(attempt=number, at="", error=error, text="")
        for number, error in enumerate(errors, 1)
    )
    past = History(created_us=1, prior_attempts=prior_attempts, errors=failings)
    return Job(1, "topic", b"", attempt=len(errors) + 1, history=past)


@pytest.mark.parametrize(
    ("crashes", "jobs"), [(0, 0), (1, 0), (2, 0), (3, 100), (4, 200), (5, 400), (13, 102_400)]
)
def test_how_many_jobs_run_one_by_one(crashes: int, jobs: int) -> None:
    assert careful_jobs(crashes, held=100) == jobs


def test_no_number_of_crashes_is_too_large() -> None:
    assert careful_jobs(2**31 - 1, held=100) == careful_jobs(1000, held=100) < 2**63


@pytest.mark.parametrize(
    ("errors", "suspect"),
    [
        ((), False),
        (("Crashed",), True),
        (("ValueError", "Crashed"), True),
        (("Crashed", "ValueError"), False),
        (("shop.errors.Crashed",), False),
    ],
)
def test_a_suspect_is_who_crashed_last(errors: tuple[str, ...], suspect: bool) -> None:
    assert is_suspect(job(*errors)) is suspect


def test_a_job_that_was_never_tried_is_no_suspect() -> None:
    assert not is_suspect(Job(1, "topic", b""))


@pytest.mark.parametrize("errors", [(), ("Crashed",), ("ValueError",) * 5, ("a.Crashed",) * 5])
def test_a_crash_is_a_failure_that_is_tried_again(errors: tuple[str, ...]) -> None:
    crashed = job(*errors)

    failure = judge_crash(crashed, RetryPolicy(first_delay=8, factor=1), jitter=latest)

    assert failure.job is crashed
    assert isinstance(failure.fate, Retry)
    assert failure.fate.after == 8
    assert (failure.error, failure.text) == ("Crashed", "the process died while this job ran")
    assert failure.jobs == 1


@pytest.mark.parametrize("errors", [("Crashed",) * 2, ("Crashed", "ValueError", "Crashed")])
def test_the_third_crash_is_the_last(errors: tuple[str, ...]) -> None:
    assert reason(judge_crash(job(*errors), RetryPolicy(), jitter=latest)) == "crashed"


def test_crashes_before_a_person_retried_it_do_not_count() -> None:
    again = job("Crashed", "Crashed", "Crashed", prior_attempts=3)

    failure = judge_crash(again, RetryPolicy(), jitter=latest)

    assert is_suspect(again)
    assert isinstance(failure.fate, Retry)


def test_attempts_that_are_used_up_by_a_crash_are_used_up() -> None:
    policy = RetryPolicy(max_attempts=2)

    assert reason(judge_crash(job("ValueError"), policy, jitter=latest)) == "crashed"


def test_whatever_a_policy_says_of_its_death_it_crashed() -> None:
    class Strict:
        def judge(self, job: Job, error: BaseException, *, jitter: Any) -> Dead:
            return Dead(f"invalid: {type(error).__name__}")

        def is_last(self, job: Job) -> bool:
            return False

    assert reason(judge_crash(job(), Strict(), jitter=latest)) == "crashed"


def reason(failure: Any) -> str:
    assert isinstance(failure.fate, Dead)
    return failure.fate.reason
