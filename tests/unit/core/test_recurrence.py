"""Which times are due, and which of the missed ones are made up for."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcdc_outbox.core.recurrence import LATE, Missed, due

START = datetime(2026, 1, 1, tzinfo=UTC)


def every(step: timedelta):
    """A schedule that is due at each multiple of ``step``, and counts how often it is asked."""

    def after(moment: datetime) -> datetime:
        after.asked += 1
        return START + ((moment - START) // step + 1) * step

    after.asked = 0
    return after


MINUTES = timedelta(minutes=1)
TEN = timedelta(minutes=10)


@pytest.mark.parametrize(
    ("missed", "late", "times"),
    [
        ("once", timedelta(0), [0]),
        ("skip", timedelta(0), [0]),
        ("all", timedelta(0), [0]),
        ("once", timedelta(minutes=35), [30]),
        ("skip", timedelta(minutes=35), []),
        ("skip", timedelta(minutes=30, seconds=30), [30]),
        ("all", timedelta(minutes=35), [0, 10, 20, 30]),
    ],
)
def test_what_was_missed(missed: Missed, late: timedelta, times: list[int]) -> None:
    asked = due(START, START + late, missed, every(TEN), limit=100)

    assert asked.times == [START + timedelta(minutes=n) for n in times]
    assert asked.next_at == every(TEN)(START + late)


def test_all_of_them_come_in_bites() -> None:
    asked = due(START, START + timedelta(days=1), "all", every(TEN), limit=3)

    assert asked.times == [START, START + TEN, START + 2 * TEN]
    assert asked.next_at == START + 3 * TEN


@pytest.mark.parametrize("missed", ["once", "skip"])
def test_a_month_of_seconds_is_no_work(missed: Missed) -> None:
    after = every(timedelta(seconds=1))
    asked = due(START, START + timedelta(days=31), missed, after, limit=100)

    assert asked.times == [START + timedelta(days=31)]
    assert after.asked < 100


@given(
    st.sampled_from(["skip", "once", "all"]),
    st.timedeltas(timedelta(seconds=1), timedelta(days=40)),
    st.timedeltas(timedelta(0), timedelta(days=40)),
)
def test_nothing_is_fired_twice_or_too_early(
    missed: Missed, step: timedelta, late: timedelta
) -> None:
    now = START + late
    asked = due(START, now, missed, every(step), limit=50)

    assert all(START <= at <= now for at in asked.times)
    assert asked.times == sorted(set(asked.times))
    assert asked.next_at > (asked.times[-1] if asked.times else START)
    if missed != "all":
        assert asked.next_at > now
        assert now - step < (asked.next_at - step) <= now
        last = asked.next_at - step
        assert asked.times == ([last] if missed == "once" or now - last <= LATE else [])
