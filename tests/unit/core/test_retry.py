"""The retry policy, by example."""

from datetime import timedelta

import pytest

from pgcdc_outbox.core.retry import EXHAUSTED, UNDECODABLE, RetryPolicy
from pgcdc_outbox.errors import PayloadInvalid, SettingsError
from pgcdc_outbox.job import History, Job
from pgcdc_outbox.outcome import Dead, Retry


def job(attempt: int, *, prior: int = 0) -> Job:
    return Job(
        1, "topic", b"", attempt=attempt, history=History(created_us=0, prior_attempts=prior)
    )


def latest(a: float, b: float) -> float:
    return b


def earliest(a: float, b: float) -> float:
    return a


def test_delays_double_up_to_the_cap() -> None:
    policy = RetryPolicy(max_attempts=8, first_delay=1, factor=2, max_delay=20)
    fates = [policy.judge(job(attempt), ValueError(), jitter=latest) for attempt in range(1, 8)]

    assert [fate.after for fate in fates] == [1, 2, 4, 8, 16, 20, 20]


def test_chance_takes_away_its_part_and_no_more() -> None:
    policy = RetryPolicy(first_delay=8, jitter=0.25)

    assert policy.judge(job(1), ValueError(), jitter=earliest).after == 6
    assert policy.judge(job(1), ValueError(), jitter=latest).after == 8


def test_without_jitter_nothing_is_left_to_chance() -> None:
    policy = RetryPolicy(first_delay=8, jitter=0)

    assert policy.judge(job(1), ValueError(), jitter=earliest).after == 8


def test_a_huge_attempt_does_not_overflow() -> None:
    policy = RetryPolicy(max_attempts=1_000_000, factor=1e6, max_delay=60)

    assert policy.judge(job(999_999), ValueError(), jitter=latest).after == 60


def test_a_count_below_what_was_forgiven_does_no_harm() -> None:
    assert RetryPolicy(first_delay=3).judge(job(1, prior=7), ValueError(), jitter=latest).after == 3


@pytest.mark.parametrize(
    ("attempt", "prior", "last"),
    [(1, 0, False), (2, 0, False), (3, 0, True), (4, 0, True), (4, 2, False), (5, 2, True)],
)
def test_the_last_attempt_is_known_before_it_is_made(attempt: int, prior: int, last: bool) -> None:
    policy = RetryPolicy(max_attempts=3)

    assert policy.is_last(job(attempt, prior=prior)) is last


def test_the_handler_may_choose_the_delay() -> None:
    asked = Retry(after=timedelta(hours=2))

    assert RetryPolicy(max_delay=1).judge(job(1), asked, jitter=latest) is asked


def test_a_delay_of_nothing_is_a_delay_all_the_same() -> None:
    asked = Retry(after=0)

    assert RetryPolicy().judge(job(1), asked, jitter=latest) is asked


def test_without_a_delay_the_policy_chooses() -> None:
    assert RetryPolicy(first_delay=5).judge(job(1), Retry(), jitter=latest).after == 5


def test_at_the_last_attempt_asking_for_another_is_in_vain() -> None:
    fate = RetryPolicy(max_attempts=3).judge(job(3), Retry(after=5), jitter=latest)

    assert isinstance(fate, Dead)
    assert fate.reason == EXHAUSTED


def test_the_handler_may_give_a_job_up() -> None:
    given_up = Dead("no such customer")

    assert RetryPolicy().judge(job(1), given_up, jitter=latest) is given_up


def test_at_the_last_attempt_the_reason_of_the_handler_is_kept() -> None:
    assert RetryPolicy(max_attempts=1).judge(job(1), Dead("why"), jitter=latest).reason == "why"


def test_a_payload_that_cannot_be_decoded_is_not_tried_again() -> None:
    fate = RetryPolicy().judge(job(1), PayloadInvalid("not JSON"), jitter=latest)

    assert isinstance(fate, Dead)
    assert fate.reason == UNDECODABLE


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_attempts", 0),
        ("max_attempts", 1_000_001),
        ("max_attempts", 2.5),
        ("max_attempts", "3"),
        ("max_attempts", True),
        ("first_delay", -0.001),
        ("first_delay", float("nan")),
        ("first_delay", timedelta(seconds=1)),
        ("factor", 0.99),
        ("factor", 1e7),
        ("max_delay", float("inf")),
        ("max_delay", None),
        ("jitter", 1.01),
        ("jitter", -0.01),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(field: str, value: object) -> None:
    with pytest.raises(SettingsError, match=rf"^RetryPolicy\.{field}: "):
        RetryPolicy(**{field: value})


def test_a_setting_that_does_not_exist_is_refused() -> None:
    with pytest.raises(TypeError, match="attempts"):
        RetryPolicy(attempts=3)


def test_the_smallest_and_the_largest_values_are_accepted() -> None:
    RetryPolicy(max_attempts=1, first_delay=0, factor=1, max_delay=0, jitter=0)
    RetryPolicy(max_attempts=1_000_000, first_delay=1e9, factor=1e6, max_delay=1e9, jitter=1)
