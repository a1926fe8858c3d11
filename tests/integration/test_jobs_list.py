"""Lists of jobs: filtered, the newest first, and never at the cost of a large table."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pgcdc_outbox import Dead, Jobs, Maintenance, Retry
from pgcdc_outbox.errors import SettingsError
from tests.harness import Outbox, Recorder, consumer, running
from tests.maintained import PATIENT

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version

LONG = 3600.0


def listed(outbox: Outbox, **options: Any) -> list[tuple[int, str]]:
    return [(each.id, each.state) for each in Jobs(outbox.dsn).list(**options).jobs]


@pytest.mark.both_modes
async def test_every_state_and_every_filter(outbox: Outbox) -> None:
    fates = {"fails": Retry(after=LONG, error="busy"), "dies": Dead("no use")}
    recorder = Recorder(lambda jobs: {j.id: fates[j.topic] for j in jobs if j.topic in fates})
    (good,) = outbox.put([1], topic="good", key="k")
    (fails,) = outbox.put([1], topic="fails")
    (dies,) = outbox.put([1], topic="dies")
    async with running(consumer(outbox, recorder)):
        await outbox.settled()

    (later,) = outbox.put([1], topic="later", key="k", delay=LONG)
    (waits,) = outbox.put([1], topic="good")
    outbox.rows(
        "insert into parked (consumer, key, id, attempt, times, created_at, topic, payload, errors)"
        " values ('default', 'k', 1000, 1, 1, now(), 'parked', '1', '[]')"
    )
    everything = listed(outbox)
    assert everything == [
        (1000, "parked"),
        (waits, "in_line"),
        (later, "scheduled"),
        (dies, "dead"),
        (dies, "settled"),
        (fails, "failed"),
        (fails, "settled"),
        (good, "settled"),
    ]
    for state in ("parked", "in_line", "scheduled", "dead", "failed", "settled"):
        assert listed(outbox, state=state) == [row for row in everything if row[1] == state]

    assert listed(outbox, topic="good") == [(waits, "in_line"), (good, "settled")]
    assert listed(outbox, key="k") == [(1000, "parked"), (later, "scheduled"), (good, "settled")]
    assert listed(outbox, since=datetime.now(UTC) + timedelta(hours=1)) == []
    (dead,) = Jobs(outbox.dsn).list(state="dead").jobs
    assert (dead.reason, dead.consumer, dead.attempt) == ("no use", "default", 1)
    (failed,) = Jobs(outbox.dsn).list(state="failed").jobs
    assert (failed.last_error or "").endswith("busy")


def test_it_stops_looking_and_says_so(outbox: Outbox) -> None:
    ids = outbox.put(range(20), topic="many")
    outbox.put(range(20), topic="other")
    listing = Jobs(outbox.dsn).list(topic="many", looks=25)
    assert [each.id for each in listing.jobs] == ids[:-6:-1]
    (stopped,) = listing.stopped
    assert (stopped.table, stopped.rows) == ("immediate", 25)
    assert not listing.more

    listing = Jobs(outbox.dsn).list(limit=3)
    assert (len(listing.jobs), listing.more, listing.stopped) == (3, True, ())


def test_partitions_that_are_too_old_are_not_even_looked_at(outbox: Outbox) -> None:
    outbox.rows(
        "insert into immediate (payload, created_at) "
        "values ('1', clock_timestamp() - interval '3 days')"
    )
    Maintenance(outbox.dsn, lock_timeout=PATIENT).once()
    (new,) = outbox.put([1])
    since = datetime.now(UTC) - timedelta(hours=1)
    assert listed(outbox, since=since) == [(new, "in_line")]

    old = outbox.value("select min(tableoid::regclass::text) from immediate")
    plan = "\n".join(
        row[0]
        for row in outbox.rows(
            "explain select id from immediate where created_at >= %s order by xid desc", [since]
        )
    )
    assert old not in plan


def test_the_newest_rows_are_found_by_the_index(outbox: Outbox) -> None:
    """Also in a table that has grown since it was analysed last, or never was."""
    outbox.rows("insert into immediate (payload) select '1' from generate_series(1, 20000)")
    plan = "\n".join(
        row[0]
        for row in outbox.rows(
            "explain select id from immediate where created_at >= '2020-01-01' "
            "order by xid desc, id desc limit 100"
        )
    )
    assert "Index Scan Backward" in plan


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state": "odd"}, "state: 'odd' is not known"),
        ({"since": datetime(2026, 1, 1)}, "since: it has no time zone"),
        ({"limit": 0}, "limit: 0"),
        ({"looks": 0}, "looks: 0"),
    ],
)
def test_what_makes_no_sense_is_refused(
    outbox: Outbox, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        Jobs(outbox.dsn).list(**options)
