"""Partitions of any length, whatever the interval was before and the clocks say."""

import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from psycopg import sql

from tests.maintained import maintained, set_clock

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version

QUARTER, HOUR, DAY = timedelta(minutes=15), timedelta(hours=1), timedelta(days=1)
INTERVALS = [QUARTER, timedelta(minutes=90), HOUR, 6 * HOUR, DAY, 7 * DAY, 31 * DAY]


@pytest.fixture
def outbox(database):
    with maintained(database) as outbox:
        yield outbox


def overlaps(outbox):
    return [(a, b) for a, b in pairwise(outbox.bounds) if a[1] > b[0]]


@pytest.mark.parametrize("interval", INTERVALS)
def test_every_length_covers_the_present_and_what_is_ahead(outbox, monkeypatch, interval):
    # The real clock could pass a bound between one statement and the next.
    now = datetime(2026, 11, 21, 12, 7, tzinfo=UTC)
    set_clock(monkeypatch, now)
    outbox.put(2, created_at=f"'{now}'")
    report = outbox.maintain(interval=interval, ahead=3)
    bounds = outbox.bounds

    assert (len(report.created), report.moved, report.delayed) == (4, 2, ())
    assert all(upper - lower == interval for lower, upper in bounds)
    assert all(a[1] == b[0] for a, b in pairwise(bounds))
    outbox.put(created_at=f"'{now + 3 * interval}'")
    assert outbox.count("outbox.immediate_default") == 0


def test_the_interval_may_change(outbox):
    outbox.maintain(interval=QUARTER, ahead=5)
    outbox.maintain(interval=DAY, ahead=2)
    outbox.maintain(interval=HOUR, ahead=60)

    assert all(a[1] == b[0] for a, b in pairwise(outbox.bounds))
    outbox.put(created_at="clock_timestamp() + interval '59 hours'")
    assert outbox.count("outbox.immediate_default") == 0


@pytest.mark.parametrize("seed", range(4))
def test_any_change_at_any_moment_leaves_no_gap_and_no_overlap(outbox, monkeypatch, seed):
    """A walk through time, with runs left out, and rows of every moment."""
    chance = random.Random(seed)
    now = datetime(2026, 11, 21, 12, 7, tzinfo=UTC)
    rows = 0
    for _ in range(12):
        interval, ahead = chance.choice(INTERVALS), chance.randint(1, 4)
        set_clock(monkeypatch, now)
        for _ in range(5):
            moment = now + chance.uniform(-1, 1) * interval
            outbox.put(created_at=f"'{moment.isoformat()}'")
            rows += 1

        report = outbox.maintain(interval=interval, ahead=ahead, retention=timedelta(days=9999))

        assert report.delayed == ()
        assert overlaps(outbox) == []
        assert outbox.count() == rows
        assert outbox.count("outbox.immediate_default") == 0
        for _ in range(5):
            outbox.put(created_at=f"'{(now + chance.random() * ahead * interval).isoformat()}'")
            rows += 1

        assert outbox.count("outbox.immediate_default") == 0, "there is a gap ahead"
        # Often not much, sometimes for longer than what was made ahead.
        now += chance.choice([timedelta(minutes=7), HOUR, DAY, 10 * DAY]) * chance.random()


@pytest.mark.parametrize(
    "zone", ["America/New_York", "Europe/Berlin", "America/St_Johns", "Asia/Kolkata"]
)
def test_the_time_zone_of_the_session_does_not_matter(outbox, zone):
    name = outbox.column("select current_database()")[0]
    outbox.connection.execute(
        sql.SQL("alter database {} set timezone = {}").format(sql.Identifier(name), zone)
    )
    outbox.connection.execute(
        sql.SQL("alter database {} set datestyle = 'SQL, DMY'").format(sql.Identifier(name))
    )

    created = outbox.maintain().created
    assert all(partition.endswith("t0000z") for partition in created)
    assert outbox.maintain().created == ()


@pytest.mark.parametrize("interval", [QUARTER, HOUR, DAY])
@pytest.mark.parametrize(
    "change",
    [datetime(2026, 3, 8, 7, tzinfo=UTC), datetime(2026, 11, 1, 6, tzinfo=UTC)],
    ids=["spring", "autumn"],
)
def test_summer_time_does_not_matter(outbox, monkeypatch, interval, change):
    name = outbox.column("select current_database()")[0]
    outbox.connection.execute(
        sql.SQL("alter database {} set timezone = 'America/New_York'").format(sql.Identifier(name))
    )
    for hours in (-26, -1, 0, 1, 2, 26):
        now = change + timedelta(hours=hours, minutes=5)
        set_clock(monkeypatch, now)
        outbox.put(created_at=f"'{(now - timedelta(hours=2)).isoformat()}'")
        outbox.put(created_at=f"'{now.isoformat()}'")
        report = outbox.maintain(interval=interval, ahead=2, retention=timedelta(days=9999))

        assert report.delayed == ()
        assert outbox.count("outbox.immediate_default") == 0

    assert overlaps(outbox) == []
    assert all((upper - lower) % QUARTER == timedelta(0) for lower, upper in outbox.bounds)
    assert all(lower.minute % 15 == 0 for lower, _ in outbox.bounds)
