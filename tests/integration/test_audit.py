"""The table of attempts: which executions get a row, and when a job is settled."""

from collections.abc import Sequence
from typing import Any

import anyio
import psycopg
import pytest

from pgcdc_outbox import Dead, Job, Retry
from pgcdc_outbox.errors import OutboxError, SettingsError
from pgcdc_outbox.events import BatchSettled, ChoreFailed, Event, Stopping
from pgcdc_outbox.postgres.migrate import migrate
from tests.harness import Outbox, Recorder, Watcher, consumer, running, streaming
from tests.wait import eventually_async

IN_BOTH_MODES = True

ROWS = "select id, attempt, outcome, jobs, error, text from attempt order by id, attempt"


async def once(outbox: Outbox, handler: Any, **options: Any) -> None:
    with anyio.fail_after(120):
        await consumer(outbox, handler, **options).run(once=True)


def fate(jobs: Sequence[Job]) -> dict[int, Any]:
    """The first attempt fails, the second is the last; what says "dead" dies."""
    outcomes: dict[int, Any] = {}
    for job in jobs:
        if job.json() == "retry" and job.attempt == 1:
            outcomes[job.id] = Retry(after=0, error="not yet")
        elif job.json() == "dead":
            outcomes[job.id] = Dead("no use")

    return outcomes


async def test_all_keeps_every_attempt_with_its_times(outbox: Outbox) -> None:
    recorder = Recorder(fate)
    before = outbox.value("select clock_timestamp()")
    # Before the start: from the log they may come one after the other.
    good, bad, ugly = outbox.put(["good", "retry", "dead"], topic="t\t\N{SNOWMAN}", key="k")
    async with running(consumer(outbox, recorder, audit="all", name="mailer")):
        await recorder.got(4)
        await eventually_async(lambda: _has(outbox, 4))

    rows = outbox.rows(
        "select consumer, id, attempt, topic, key, outcome, jobs, error, text from attempt "
        "order by id, attempt"
    )
    fixed = ("t\t\N{SNOWMAN}", "k")
    assert [(row[1], row[2], *row[5:]) for row in rows] == [
        (good, 1, "done", 3, None, None),
        (bad, 1, "retry", 1, "pgcdc_outbox.outcome.Retry", "not yet"),
        (bad, 2, "done", 1, None, None),
        (ugly, 1, "dead", 1, "pgcdc_outbox.outcome.Dead", "no use"),
    ]
    assert {(row[0], row[3], row[4]) for row in rows} == {("mailer", *fixed)}
    # Ahead of the clock by no more than it took to ask for it.
    times = outbox.rows(
        "select a.started_at > %s and a.started_at < clock_timestamp() + interval '1 min', "
        "a.seconds >= 0, a.seconds < 60, a.instance = c.instance from attempt a, consumer c",
        [before],
    )
    assert set(times) == {(True, True, True, True)}


async def _has(outbox: Outbox, rows: int) -> bool:
    return int(outbox.value("select count(*) from attempt")) >= rows


async def test_failures_is_the_default_and_keeps_no_success(outbox: Outbox) -> None:
    outbox.put(["good", "retry", "dead"])
    recorder = Recorder(fate)
    async with running(consumer(outbox, recorder)):
        await recorder.got(4)

    assert sorted(row[1:3] for row in outbox.rows(ROWS)) == [(1, "dead"), (1, "retry")]


async def test_none_keeps_nothing(outbox: Outbox) -> None:
    outbox.put(["good", "dead"])
    await once(outbox, Recorder(fate), audit="none")
    assert outbox.rows(ROWS) == []
    assert outbox.value("select count(*) from dead_letter") == 1


async def test_a_call_that_raised_is_kept_for_each_of_its_jobs(outbox: Outbox) -> None:
    outbox.put(range(3))

    def fail_together(jobs: Sequence[Job]) -> None:
        if len(jobs) > 1:
            raise ValueError("one of them")

    recorder = Recorder(fail_together)
    async with running(consumer(outbox, recorder, audit="all")):
        await recorder.got(6)
        await eventually_async(lambda: _has(outbox, 6))

    assert [
        row[1:]
        for row in outbox.rows(
            "select id, attempt, outcome, jobs from attempt order by id, attempt"
        )
    ] == [
        (1, "retry", 3),
        (2, "done", 1),
    ] * 3


@pytest.mark.logical_only
async def test_a_job_is_not_settled_before_its_row_is_written(outbox: Outbox) -> None:
    """While the rows cannot be written the worker goes on, and nothing counts as done."""
    recorder, watcher = Recorder(), Watcher()
    subject = consumer(outbox, recorder, audit="all", observers=[watcher], batch_size=1)
    with psycopg.connect(outbox.dsn) as blocker:
        blocker.execute("lock table outbox.attempt in exclusive mode")
        async with streaming(subject, watcher):
            (first,) = outbox.put([1])
            await recorder.got(1)
            later = outbox.put([2, 3])
            await recorder.got(3)
            assert recorder.ids == [first, *later]
            assert watcher.of(BatchSettled) == []
            blocker.rollback()
            await watcher.saw(BatchSettled, 3)

    assert [row[0] for row in outbox.rows(ROWS)] == recorder.ids


async def test_a_stop_waits_until_what_was_done_is_written(outbox: Outbox) -> None:
    recorder, watcher = Recorder(), Watcher()
    settled_at_stop: list[Any] = []
    with psycopg.connect(outbox.dsn) as blocker:

        def let_go(event: Event) -> None:
            if isinstance(event, Stopping):
                settled_at_stop.append(watcher.of(BatchSettled))
                blocker.rollback()

        blocker.execute("lock table outbox.attempt in exclusive mode")
        options = {"audit": "all", "observers": [watcher, let_go], "drain_timeout": 60}
        subject = consumer(outbox, recorder, **options)
        async with streaming(subject, watcher):
            ids = outbox.put(range(10))
            await recorder.got(10)

    assert settled_at_stop == [[]]
    assert [row[0] for row in outbox.rows(ROWS)] == ids
    again = Recorder()
    await once(outbox, again, audit="all")
    assert again.jobs == []


async def test_what_was_done_but_not_written_in_time_comes_again(outbox: Outbox) -> None:
    recorder, watcher = Recorder(), Watcher()
    subject = consumer(outbox, recorder, audit="all", observers=[watcher], drain_timeout=0.2)
    with psycopg.connect(outbox.dsn) as blocker:
        blocker.execute("lock table outbox.attempt in exclusive mode")
        async with streaming(subject, watcher):
            ids = outbox.put(range(3))
            await recorder.got(3)

    assert outbox.rows(ROWS) == []
    again = Recorder()
    await once(outbox, again, audit="all")
    assert again.ids == ids
    assert [row[0] for row in outbox.rows(ROWS)] == ids


async def test_a_lost_connection_is_made_again_and_the_rows_written(outbox: Outbox) -> None:
    recorder, watcher = Recorder(), Watcher()
    subject = consumer(outbox, recorder, audit="all", observers=[watcher])
    with psycopg.connect(outbox.dsn) as blocker:
        blocker.execute("lock table outbox.attempt in exclusive mode")
        async with streaming(subject, watcher):
            ids = outbox.put(range(3))
            await recorder.got(3)
            await eventually_async(lambda: _ended_copy(outbox))
            await watcher.saw(ChoreFailed)
            blocker.rollback()
            await watcher.saw(BatchSettled)

    assert [row[0] for row in outbox.rows(ROWS)] == ids


async def _ended_copy(outbox: Outbox) -> bool:
    return bool(
        outbox.rows(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() "
            "and query like 'copy%%attempt%%' and wait_event_type = 'Lock'"
        )
    )


async def test_a_role_that_may_not_write_it_is_told(outbox: Outbox) -> None:
    outbox.put([1])
    outbox.rows("alter table attempt add constraint never check (outcome <> 'done')")
    with pytest.raises(OutboxError, match="write down what was executed"):
        await once(outbox, Recorder(), audit="all")

    outbox.rows("alter table attempt drop constraint never")
    again = Recorder()
    await once(outbox, again, audit="all")
    assert len(again.jobs) == 1


async def test_a_row_that_cannot_be_read_is_kept_as_dead(outbox: Outbox) -> None:
    outbox.rows("insert into immediate (payload, history) values ('1', '{\"created_us\": \"x\"}')")
    await once(outbox, Recorder())
    assert [row[1:5] for row in outbox.rows(ROWS)] == [(1, "dead", 1, "Undecodable")]


def test_an_unknown_level_is_refused() -> None:
    from pgcdc_outbox import Consumer

    with pytest.raises(SettingsError, match="audit: 'some'"):
        Consumer("", Recorder(), audit="some")  # type: ignore[arg-type]


async def test_many_batches_are_written_together(outbox: Outbox) -> None:
    ids = outbox.put(range(2000))
    recorder = Recorder()
    await once(outbox, recorder, audit="all", batch_size=10)
    assert sorted(row[0] for row in outbox.rows(ROWS)) == sorted(ids)
    writes = outbox.value("select count(distinct xmin::text) from attempt")
    assert writes < 100


async def test_in_a_schema_of_any_name(database: str) -> None:
    outbox = Outbox(database, schema='out "box%')
    migrate(database, schema=outbox.schema)
    ids = outbox.put([1, 2])
    await once(outbox, Recorder(), audit="all")
    assert [row[0] for row in outbox.rows(ROWS)] == ids
