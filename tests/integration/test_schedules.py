"""Schedules: each time is fired once, by whoever is there, and what was missed by policy."""

import json
import time
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import pairwise
from typing import Self

import anyio
import pytest
from click.testing import CliRunner

from pgcdc_outbox import Schedule, Schedules
from pgcdc_outbox.cli.main import cli
from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.errors import SettingsError
from pgcdc_outbox.events import ChoreFailed
from pgcdc_outbox.postgres.producer.schedules import cron, firing, schedule
from pgcdc_outbox.postgres.producer.schedules import schedules as schedules_module
from pgcdc_outbox.postgres.producer.schedules.firing import Firing
from pgcdc_outbox.postgres.session import Session
from tests.harness import Outbox, Recorder, Watcher, consumer, streaming

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version

IN_BOTH_MODES = True

SECONDLY = Schedule(name="tick", cron="* * * * * *", payload={"n": 1}, topic="t")
YEARLY = Schedule(name="year", cron="0 0 1 1 *", payload={"n": 2}, time_zone="Asia/Tokyo")


@pytest.fixture
def schedules(outbox: Outbox) -> Schedules:
    return Schedules(outbox.dsn)


def half_an_hour_away(outbox: Outbox) -> str:
    """A time of every hour that does not come while a test runs, as cron spells it."""
    now = outbox.value("select clock_timestamp()").astimezone(UTC)
    return f"{(now.minute + 30) % 60} * * * *"


def down_for(outbox: Outbox, hours: float, name: str = "hour") -> None:
    """As if nothing had run for so long: the next time is the first since."""
    outbox.rows(
        "update recurring set next_at = date_trunc('hour', clock_timestamp()) - %s where name = %s",
        [timedelta(hours=hours), name],
    )


async def test_it_is_fired_when_it_is_due(outbox: Outbox, schedules: Schedules) -> None:
    recorder, watcher = Recorder(), Watcher()
    # All, for a busy machine may miss one by more than a second.
    tick = Schedule(name="tick", cron="* * * * * *", payload={"n": 1}, topic="t", missed="all")
    async with streaming(consumer(outbox, recorder, observers=[watcher]), watcher):
        schedules.put(tick)
        await recorder.got(3, 60)

    times = [datetime.fromisoformat(job.headers["scheduled-for"]) for job in recorder.jobs]
    assert {b - a for a, b in pairwise(times)} == {timedelta(seconds=1)}
    assert {job.headers["schedule-name"] for job in recorder.jobs} == {"tick"}
    assert {job.topic for job in recorder.jobs} == {"t"}
    assert recorder.values[0] == {"n": 1}
    for job, at in zip(recorder.jobs, times, strict=True):
        assert timedelta(0) <= job.created_at - at < timedelta(minutes=2)

    (kept,) = schedules.list()
    assert kept.last_at is not None
    assert kept.last_id == outbox.value("select max(id) from immediate")
    assert kept.next_at == kept.last_at + timedelta(seconds=1)


@pytest.mark.parametrize(("missed", "jobs"), [("skip", 0), ("once", 1), ("all", 6)])
async def test_what_was_missed_while_nothing_ran(
    missed: str, jobs: int, outbox: Outbox, schedules: Schedules
) -> None:
    cron = half_an_hour_away(outbox)
    schedules.put(Schedule(name="hour", cron=cron, missed=missed, time_to_live=3600))
    before = schedules.list()[0].next_at
    outbox.rows("update recurring set next_at = next_at - interval '6 h'")
    recorder = Recorder()

    await consumer(outbox, recorder).run(once=True)

    assert schedules.list()[0].next_at == before
    expected = [before - timedelta(hours=n) for n in range(jobs, 0, -1)]
    at = [
        datetime.fromisoformat(found)
        for (found,) in outbox.rows("select headers ->> 'scheduled-for' from immediate order by id")
    ]
    assert at == expected
    # What may live for an hour after its time: of six hours only the last.
    assert len(recorder.jobs) == min(jobs, 1)


async def test_a_schedule_of_the_code_is_put_at_the_start(
    outbox: Outbox, schedules: Schedules
) -> None:
    recorder, watcher = Recorder(), Watcher()
    options = {"observers": [watcher], "schedules": [SECONDLY, YEARLY]}
    async with streaming(consumer(outbox, recorder, **options), watcher):
        await recorder.got(1)

    assert [each.name for each in schedules.list()] == ["tick", "year"]
    year = datetime.now(UTC).year
    assert schedules.list()[1].next_at in {
        datetime(year + more, 12, 31, 15, tzinfo=UTC) for more in (0, 1)
    }


async def test_what_was_down_is_made_up_for_although_the_code_puts_it_again(
    outbox: Outbox, schedules: Schedules
) -> None:
    hourly = Schedule(name="hour", cron="0 * * * *", missed="all")
    schedules.put(hourly)
    down_for(outbox, 3)

    await consumer(outbox, Recorder(), schedules=[hourly]).run(once=True)

    assert outbox.value("select count(*) from immediate") >= 4


@pytest.mark.parametrize("rounds", [40])
async def test_five_instances_fire_each_time_once(
    rounds: int, outbox: Outbox, schedules: Schedules
) -> None:
    """Several consumers, each of them several times: whoever is first."""
    schedules.put(Schedule(name="hour", cron="0 * * * *", missed="all"))
    down_for(outbox, 2 * rounds)
    watcher = Watcher()
    # A few times each, so that there is something left for the others.
    sessions = [Session(outbox.dsn, name=f"firing-{number}") for number in range(5)]
    crew = [
        Firing(
            session, consumer=f"c{number}", schema="outbox", declared=(), notice=Notice([watcher])
        )
        for number, session in enumerate(sessions)
    ]
    for round_ in range(rounds):
        down_for(outbox, 2 * (rounds - round_))
        outbox.rows("truncate immediate")
        async with anyio.create_task_group() as group:
            for each in crew:
                group.start_soon(each.all)

        found = outbox.rows("select headers ->> 'scheduled-for' from immediate order by id")
        assert len(found) == len(set(found)) >= 2 * (rounds - round_)

    for session in sessions:
        session.close()


async def test_several_consumers_get_the_same_job(outbox: Outbox, schedules: Schedules) -> None:
    schedules.put(Schedule(name="hour", cron=half_an_hour_away(outbox)))
    outbox.rows("update recurring set next_at = next_at - interval '2 h'")
    first, second, watcher = Recorder(), Recorder(), Watcher()
    others = Watcher()
    async with (
        streaming(consumer(outbox, first, name="a", observers=[watcher]), watcher),
        streaming(consumer(outbox, second, name="b", observers=[others]), others),
    ):
        await first.got(1, 60)
        await second.got(1, 60)

    assert first.ids == second.ids
    assert outbox.value("select count(*) from immediate") == 1


class Forbidden(datetime):
    """A clock that must not be read: it may be wrong by hours."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        raise AssertionError("the clock of the client was read")

    utcnow = today = now


@pytest.mark.parametrize("zone", ["America/New_York", "Europe/Athens", "Asia/Tokyo"])
async def test_neither_the_clients_clock_nor_the_zone_of_a_session_matters(
    zone: str, outbox: Outbox, schedules: Schedules, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = outbox.value("select clock_timestamp()").astimezone(UTC)
    # Tokyo has whole hours, so that a minute of it is one of UTC.
    minute = (now.minute + 30) % 60
    hourly = Schedule(name="hour", cron=f"{minute} * * * *", time_zone="Asia/Tokyo", missed="all")
    monkeypatch.setenv("PGTZ", zone)
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + 3 * 3600)
    for module in (cron, firing, schedule, schedules_module):
        if hasattr(module, "datetime"):
            monkeypatch.setattr(module, "datetime", Forbidden)

    schedules.put(hourly)
    await consumer(outbox, Recorder()).run(once=True)
    assert outbox.value("select count(*) from immediate") == 0
    next_at = schedules.list()[0].next_at.astimezone(UTC)
    assert (next_at.minute, timedelta(0) < next_at - now <= timedelta(minutes=31)) == (minute, True)

    outbox.rows("update recurring set next_at = next_at - interval '2 h'")
    await consumer(outbox, Recorder()).run(once=True)
    assert outbox.rows("select headers ->> 'scheduled-for' from immediate order by id") == [
        (f"{next_at - timedelta(hours=hours):%Y-%m-%dT%H:%M:%SZ}",) for hours in (2, 1)
    ]


async def test_one_that_is_paused_rests_and_does_not_catch_up(
    outbox: Outbox, schedules: Schedules
) -> None:
    hourly = Schedule(name="hour", cron=half_an_hour_away(outbox), missed="all")
    schedules.put(hourly)
    assert schedules.pause("hour")
    outbox.rows("update recurring set next_at = next_at - interval '5 h'")
    await consumer(outbox, Recorder(), schedules=[hourly]).run(once=True)
    assert outbox.value("select count(*) from immediate") == 0
    assert schedules.list()[0].paused

    assert schedules.resume("hour")
    await consumer(outbox, Recorder()).run(once=True)
    assert outbox.value("select count(*) from immediate") == 0
    assert outbox.value("select next_at > clock_timestamp() from recurring")
    assert not schedules.pause("nobody")
    assert not schedules.resume("nobody")


async def test_one_that_makes_no_sense_does_not_hold_up_the_others(
    outbox: Outbox, schedules: Schedules
) -> None:
    schedules.put(SECONDLY)
    outbox.rows(
        "insert into recurring (name, cron, time_zone, payload, next_at) "
        "values ('bad', '0 * * * *', 'Mars/Olympus', '1', now() - interval '1 h')"
    )
    recorder, watcher = Recorder(), Watcher()
    async with streaming(consumer(outbox, recorder, observers=[watcher]), watcher):
        await recorder.got(2)
        failed = await watcher.saw(ChoreFailed)

    assert "schedule bad: time_zone: 'Mars/Olympus' is not known here" in failed.error
    assert len(watcher.of(ChoreFailed)) == 1


def test_putting_again_changes_what_was_changed(outbox: Outbox, schedules: Schedules) -> None:
    first = Schedule(name="n", cron="0 0 1 1 *", payload=1)
    schedules.put(first)
    (before,) = schedules.list()
    schedules.put(first)
    assert schedules.list() == (before,)

    schedules.put(Schedule(name="n", cron="0 0 1 1 *", payload=2, topic="x", missed="all"))
    (after,) = schedules.list()
    assert (after.body, after.topic, after.missed) == ("2", "x", "all")
    assert after.next_at == before.next_at

    schedules.put(Schedule(name="n", cron="0 0 1 1 *", payload=2, time_zone="Asia/Tokyo"))
    assert schedules.list()[0].next_at == before.next_at - timedelta(hours=9)
    assert schedules.remove("n")
    assert not schedules.remove("n")
    assert schedules.list() == ()


@pytest.mark.any_version
def test_a_consumer_refuses_what_is_no_list_of_schedules(outbox: Outbox) -> None:
    with pytest.raises(SettingsError, match="tick is there twice"):
        consumer(outbox, print, schedules=[SECONDLY, SECONDLY])

    with pytest.raises(SettingsError, match="schedules: a str is given"):
        consumer(outbox, print, schedules=["x"])


@pytest.mark.any_version
@pytest.mark.logical_only
def test_the_command(outbox: Outbox) -> None:
    def run(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(cli, ["--dsn", outbox.dsn, "schedule", *words])
        assert done.exit_code == code, done.output
        return done.output

    assert run("list") == "no schedules\n"
    run("add", "daily", "30 7 * * *", '{"a":1}', "--time-zone", "Europe/Athens", "--topic", "t",
        "--missed", "skip", "--time-to-live", "1h", "--header", "x=y")  # fmt: skip
    assert "Europe/Athens" in run("list")
    (shown,) = json.loads(run("list", "--format", "json"))
    assert (shown["name"], shown["body"], shown["missed"]) == ("daily", '{"a":1}', "skip")
    assert outbox.value("select headers from recurring") == {"x": "y"}
    assert run("pause", "daily") == "schedule daily is paused\n"
    assert "paused" in run("list")
    assert run("resume", "daily") == "schedule daily is resumed\n"
    assert run("remove", "daily") == "schedule daily is removed\n"
    assert "there is no schedule daily" in run("remove", "daily", code=1)
    assert "hint: Five fields" in run("add", "bad", "61 * * * *", code=1)
    assert "is not known here" in run("add", "bad", "1 * * * *", "--time-zone", "X/Y", code=1)
