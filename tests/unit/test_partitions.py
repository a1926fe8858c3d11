"""Which partitions there should be, decided without a server."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcdc_outbox.errors import SettingsError
from pgcdc_outbox.postgres.partition.partitions import (
    Bounds,
    Partition,
    align,
    check_interval,
    covered,
    gaps,
    missing,
)
from pgcdc_outbox.postgres.partition.table import ATTEMPTS, JOBS

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)


def at(day: int, hour: int = 0, minute: int = 0) -> datetime:
    return datetime(2026, 11, day, hour, minute, tzinfo=UTC)


def partition(lower: datetime | None, upper: datetime | None) -> Partition:
    return Partition(name="p", lower=lower, upper=upper, is_default=False, bytes=0, estimate=0)


def test_the_current_interval_and_those_ahead_are_wanted():
    wanted = missing([], now=NOW, interval=DAY, ahead=2)

    assert wanted == [Bounds(at(21), at(22)), Bounds(at(22), at(23)), Bounds(at(23), at(24))]
    assert JOBS.partition(wanted[0]) == "immediate_20261121t0000z"
    assert ATTEMPTS.partition(wanted[0]) == "attempt_20261121t0000z"


def test_what_exists_is_not_made_again():
    existing = [partition(at(21), at(22)), partition(at(22), at(23))]

    assert missing(existing, now=NOW, interval=DAY, ahead=1) == []


def test_a_longer_interval_goes_on_where_the_last_partition_ends():
    existing = [partition(at(21, 9), at(21, 10)), partition(at(21, 10), at(21, 11))]

    assert missing(existing, now=NOW, interval=DAY, ahead=1) == [
        Bounds(at(21, 0), at(21, 9)),
        Bounds(at(21, 11), at(22)),
        Bounds(at(22), at(23)),
    ]


def test_a_shorter_interval_goes_on_where_the_last_partition_ends():
    existing = [partition(at(21), at(22))]

    assert missing(existing, now=at(21, 23, 30), interval=HOUR, ahead=2) == [
        Bounds(at(22, 0), at(22, 1)),
        Bounds(at(22, 1), at(22, 2)),
    ]


def test_gaps_are_what_partitions_leave_of_a_day():
    existing = [partition(at(21, 3), at(21, 4)), partition(at(21, 4), at(21, 9))]

    assert list(gaps(Bounds(at(21), at(22)), existing)) == [
        Bounds(at(21, 0), at(21, 3)),
        Bounds(at(21, 9), at(22)),
    ]


def test_neighbours_cover_a_time_together():
    existing = [partition(at(21, 9), at(21, 10)), partition(at(21, 10), at(21, 11))]

    assert covered(existing, since=at(21, 9, 30), until=at(21, 10, 30))
    assert not covered(existing, since=at(21, 8, 59), until=at(21, 9, 30))
    assert not covered(existing, since=at(21, 10, 30), until=at(21, 11, 1))
    assert covered([partition(None, None)], since=at(1), until=at(30))
    assert not covered([], since=at(1), until=at(30))


def test_partitions_without_a_bound_are_respected():
    assert missing([partition(at(21), None)], now=NOW, interval=DAY, ahead=3) == []
    assert missing([partition(None, at(22))], now=NOW, interval=DAY, ahead=1) == [
        Bounds(at(22), at(23))
    ]


def test_weeks_begin_on_monday_and_days_at_midnight_in_utc():
    assert align(NOW, timedelta(weeks=1)) == at(16)
    assert align(NOW, DAY) == at(21)
    assert align(NOW, timedelta(minutes=15)) == at(21, 9, 30)


@pytest.mark.parametrize(
    "interval",
    [timedelta(minutes=14), timedelta(days=32), timedelta(minutes=15, seconds=1), -DAY],
)
def test_intervals_that_cannot_be_are_refused(interval):
    with pytest.raises(SettingsError, match="interval"):
        check_interval(interval)


intervals = st.sampled_from([timedelta(minutes=15), HOUR, timedelta(hours=7), DAY, 7 * DAY])
moments = st.datetimes(
    min_value=datetime(2020, 1, 1), max_value=datetime(2030, 1, 1), timezones=st.just(UTC)
)


@given(
    runs=st.lists(st.tuples(moments, intervals, st.integers(1, 5)), min_size=1, max_size=6),
    stranded=st.lists(moments, max_size=4),
)
def test_whatever_the_runs_partitions_never_overlap_and_always_cover(runs, stranded):
    existing: list[Partition] = []
    for now, interval, ahead in runs:
        plan = missing(existing, now=now, interval=interval, ahead=ahead)
        existing += [partition(bounds.lower, bounds.upper) for bounds in plan]
        for moment in stranded:
            day = Bounds(align(moment, DAY), align(moment, DAY) + DAY)
            existing += [partition(gap.lower, gap.upper) for gap in gaps(day, existing)]

        ordered = sorted((each.lower, each.upper) for each in existing)
        assert all(upper <= lower for (_, upper), (lower, _) in pairwise(ordered))
        for wanted in (now, now + ahead * interval, *stranded):
            assert any(lower <= wanted < upper for lower, upper in ordered)
        assert covered(existing, since=now, until=now + ahead * interval)
