"""Times count by the server's clock, whatever the client, the session or the server call home."""

import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import psycopg
import pytest

from pgcdc_outbox.job import NewJob
from pgcdc_outbox.postgres.producer import enqueue, moments
from pgcdc_outbox.postgres.producer.client import Client
from pgcdc_outbox.postgres.producer.handles import copying, placing
from tests.contract.handles import HANDLES, Table

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version

ZONES = ["America/New_York", "Europe/Athens", "Asia/Tokyo"]
# Clocks go back in New York (06:00 UTC) on that day: an hour of it comes twice.
NIGHT = datetime(2026, 11, 1, 5, 30, tzinfo=UTC)


@pytest.fixture(params=ZONES)
def zone(request, monkeypatch):
    """A client whose own time zone is another one."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("seconds", [2, 0.25, timedelta(seconds=2), timedelta(days=200)], ids=str)
def test_delay_counts_from_the_servers_clock(seconds, zone: str, outbox: str, table: Table):
    delay = seconds if isinstance(seconds, timedelta) else timedelta(seconds=seconds)
    for session_zone in ZONES:
        with psycopg.connect(outbox, options=f"-c TimeZone={session_zone}") as connection:
            before = server_clock(connection)
            Client().enqueue(1, delay=seconds, tx=connection)
            Client().enqueue_many([NewJob(payload=1, delay=seconds)], tx=connection)
            after = server_clock(connection)

        for row in table.rows("scheduled")[-2:]:
            assert before + delay <= row["due_at"] <= after + delay


def server_clock(connection: psycopg.Connection) -> datetime:
    found = connection.execute("select clock_timestamp()").fetchone()[0]
    return found.astimezone(UTC)


@pytest.mark.parametrize("at", [NIGHT, NIGHT.replace(microsecond=123457)], ids=str)
def test_run_at_is_an_instant(at: datetime, zone: str, outbox: str, table: Table):
    homes = [at.astimezone(ZoneInfo(name)) for name in ZONES]
    # The same wall clock, an hour later: only fold tells them apart.
    again = (at + timedelta(hours=1)).astimezone(ZoneInfo("America/New_York"))
    assert again.replace(fold=0) == homes[0]

    for session_zone in ZONES:
        with psycopg.connect(
            outbox, options=f"-c TimeZone={session_zone} -c DateStyle=SQL,DMY"
        ) as connection:
            for home in (*homes, again):
                Client().enqueue(1, run_at=home, tx=connection)

            Client().enqueue_many(
                [NewJob(payload=1, run_at=home) for home in (*homes, again)], tx=connection
            )

    expected = [at, at, at, at + timedelta(hours=1)] * 2 * len(ZONES)
    assert [row["due_at"] for row in table.rows("scheduled")] == expected


class Forbidden(datetime):
    """A clock that must not be read: it may be wrong by an hour."""

    @classmethod
    def now(cls, tz=None):
        raise AssertionError("the clock of the client was read")

    utcnow = today = now


@pytest.mark.parametrize("name", HANDLES)
async def test_the_clients_clock_is_not_read(name: str, outbox: str, table: Table, monkeypatch):
    async with HANDLES[name](outbox) as handle:
        before = table.clock()
        with monkeypatch.context() as patch:
            for module in (enqueue, moments, placing, copying):
                patch.setattr(module, "datetime", Forbidden)

            wrong = time.time() + 3600
            patch.setattr(time, "time", lambda: wrong)
            await handle.enqueue(1, delay=3600)
            await handle.enqueue_many([NewJob(payload=1, delay=3600), NewJob(payload=1)])

        after = table.clock()
        await handle.commit()

    for row in table.rows("scheduled"):
        assert before <= row["due_at"] - timedelta(hours=1) <= after

    for row in (*table.rows("immediate"), *table.rows("scheduled")):
        assert before <= row["created_at"] <= after


def test_a_delay_of_nothing_runs_at_once(outbox: str, table: Table):
    with psycopg.connect(outbox) as connection:
        for delay in (0, 0.0, timedelta(0)):
            Client().enqueue(1, delay=delay, tx=connection)
            Client().enqueue_many([NewJob(payload=1, delay=delay)], tx=connection)

    assert len(table.rows("immediate")) == 6
    assert table.rows("scheduled") == []


def test_a_time_that_has_passed_is_due(outbox: str, table: Table):
    with psycopg.connect(outbox) as connection:
        Client().enqueue(1, run_at=datetime(2020, 1, 1, tzinfo=UTC), tx=connection)

    assert [row["due_at"].year for row in table.rows("scheduled")] == [2020]


def test_expires_at_is_an_instant(zone: str, outbox: str, table: Table):
    homes = [NIGHT.astimezone(ZoneInfo(name)) for name in ZONES]
    for session_zone in ZONES:
        with psycopg.connect(
            outbox, options=f"-c TimeZone={session_zone} -c DateStyle=SQL,DMY"
        ) as connection:
            for home in homes:
                Client().enqueue(1, expires_at=home, tx=connection)
                Client().enqueue(1, expires_at=home, delay=5, tx=connection)

            Client().enqueue_many(
                [NewJob(payload=1, expires_at=home, delay=d) for home in homes for d in (0, 5)],
                tx=connection,
            )

    for place in ("immediate", "scheduled"):
        assert [row["expires_at"] for row in table.rows(place)] == [NIGHT] * 18


@pytest.mark.parametrize("name", HANDLES)
async def test_a_time_to_live_counts_from_the_moment_when_a_job_may_run(
    name: str, outbox: str, table: Table, monkeypatch
):
    minute, hour = timedelta(minutes=1), timedelta(hours=1)
    times = [{}, {"delay": hour}, {"run_at": NIGHT}]
    async with HANDLES[name](outbox) as handle:
        before = table.clock()
        with monkeypatch.context() as patch:
            wrong = time.time() + 3600
            patch.setattr(time, "time", lambda: wrong)
            for each in times:
                await handle.enqueue(1, time_to_live=60, **each)

            await handle.enqueue_many([NewJob(payload=1, time_to_live=minute, **t) for t in times])
            await handle.enqueue_many([NewJob(payload=1, expires_at=NIGHT)])

        after = table.clock()
        await handle.commit()

    *now, at = table.rows("immediate")
    assert len(now) == 2
    assert at["expires_at"] == NIGHT
    for row in now:
        assert before <= row["expires_at"] - minute <= after

    later = table.rows("scheduled")
    assert len(later) == 4
    for row in later:
        assert row["expires_at"] - row["due_at"] == minute
