"""The clock of reports."""

import pytest

from pgcdc_outbox.core.feedback import Feedback, report_interval


def reported(*, interval: float = 10.0, throttle: float = 0.5, at: float = 100.0) -> Feedback:
    feedback = Feedback(interval=interval, throttle=throttle)
    feedback.reported(at)
    return feedback


def test_the_first_report_is_due_at_once() -> None:
    assert Feedback(interval=10).wait(0.0) == 0


def test_after_a_report_the_next_is_due_an_interval_later() -> None:
    feedback = reported()

    assert feedback.wait(100) == 10
    assert feedback.wait(104) == 6
    assert feedback.wait(110) == 0
    assert feedback.wait(500) == 0


def test_news_is_told_soon_but_not_for_each_job() -> None:
    feedback = reported()
    feedback.settle()
    feedback.settle()

    assert feedback.wait(100) == 0.5
    assert feedback.wait(101) == 0


def test_the_server_is_answered_at_once() -> None:
    feedback = reported()
    feedback.ask()

    assert feedback.wait(101) == 0


def test_a_server_that_asks_at_every_answer_is_answered_a_hundred_times_a_second() -> None:
    feedback = reported()
    feedback.ask()

    assert feedback.wait(100) == pytest.approx(0.01)
    assert feedback.wait(100.01) == pytest.approx(0, abs=1e-9)


def test_a_report_answers_everything_that_was_open() -> None:
    feedback = reported()
    feedback.ask()
    feedback.settle()

    feedback.reported(101)

    assert feedback.wait(101) == 10


def test_news_never_delays_a_report() -> None:
    feedback = reported(interval=0.2, throttle=0.5)
    feedback.settle()

    assert feedback.wait(100) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("timeout", "interval"),
    [(0, 10), (60, 10), (30, 10), (6, 2), (2, 2 / 3), (0.3, 0.1), (0.001, 0.1)],
)
def test_the_interval_is_a_third_of_the_patience_within_reason(
    timeout: float, interval: float
) -> None:
    assert report_interval(timeout) == pytest.approx(interval)
