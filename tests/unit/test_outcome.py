"""Outcomes: values to be returned, exceptions to be raised."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from pgcdc_outbox.outcome import Dead, Done, Outcome, Retry, Snooze


@pytest.mark.parametrize("outcome", [Done(), Retry(), Dead(), Snooze(after=1)])
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

    with pytest.raises(ValueError, match=r"^after: "):
        Snooze(after=after)


def test_a_snooze_is_until_a_moment_or_for_a_time() -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=5)))
    assert Snooze(noon).until == datetime(2026, 1, 1, 7, tzinfo=UTC)
    assert Snooze(until=noon).after is None
    assert Snooze(after=timedelta(minutes=2)).after == 120


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "until, after: give one"),
        ({"until": datetime(2026, 1, 1, tzinfo=UTC), "after": 5}, "until, after: give one"),
        ({"until": datetime(2026, 1, 1)}, "until: 2026-01-01T00:00:00 has no time zone"),
        ({"until": 5}, "until: a int is given"),
    ],
)
def test_a_snooze_that_makes_no_sense_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        Snooze(**given)


def test_the_text_is_what_a_person_will_read() -> None:
    assert str(Retry(error="busy")) == "busy"
    assert str(Dead("no such customer")) == "no such customer"
    assert str(Dead()) == "rejected"


def test_they_print_as_they_are_written() -> None:
    assert repr(Done()) == "Done()"
    assert repr(Retry(5, "busy")) == "Retry(after=5.0, error='busy')"
    assert repr(Dead("no")) == "Dead('no')"
    assert repr(Snooze(after=5)) == "Snooze(after=5.0)"
