"""Outcomes: values to be returned, exceptions to be raised."""

from datetime import timedelta

import pytest

from pgcdc_outbox.outcome import Dead, Done, Outcome, Retry


@pytest.mark.parametrize("outcome", [Done(), Retry(), Dead()])
def test_each_may_be_raised(outcome: Outcome) -> None:
    with pytest.raises(Outcome):
        raise outcome


@pytest.mark.parametrize(
    ("after", "seconds"),
    [(None, None), (0, 0), (1.5, 1.5), (timedelta(minutes=2), 120), (timedelta(), 0)],
)
def test_a_delay_is_a_timedelta_or_seconds(after: timedelta | float | None, seconds: float) -> None:
    assert Retry(after=after).after == seconds


@pytest.mark.parametrize(
    "after",
    [-1, -0.001, float("inf"), float("nan"), timedelta(seconds=-1), 2.0**70, timedelta.max],
)
def test_a_delay_that_makes_no_sense_is_refused(after: timedelta | float) -> None:
    with pytest.raises(ValueError, match=r"^after: "):
        Retry(after=after)


def test_the_text_is_what_a_person_will_read() -> None:
    assert str(Retry(error="busy")) == "busy"
    assert str(Dead("no such customer")) == "no such customer"
    assert str(Dead()) == "rejected"


def test_they_print_as_they_are_written() -> None:
    assert repr(Done()) == "Done()"
    assert repr(Retry(5, "busy")) == "Retry(after=5, error='busy')"
    assert repr(Dead("no")) == "Dead('no')"
