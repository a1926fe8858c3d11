"""Time that passes because a test says so."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from pgcdc_outbox.outcome import Retry, Snooze
from pgcdc_outbox.testing import Outbox
from tests.wait import eventually

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version

HOUR = timedelta(hours=1)


def nothing(jobs):
    pass


def test_a_job_for_later_runs_when_its_time_has_come(outbox: Outbox) -> None:
    outbox.client.enqueue("later", delay=HOUR)
    outbox.client.enqueue("now")
    assert [job.json() for job in outbox.drain(nothing).done] == ["now"]

    outbox.travel(HOUR - timedelta(minutes=1))
    assert outbox.drain(nothing).jobs == []

    outbox.travel(timedelta(minutes=1))
    assert [job.json() for job in outbox.drain(nothing).done] == ["later"]


def test_schedules_of_the_time_to_come_run_in_their_order(outbox: Outbox) -> None:
    for hours in (3, 1, 2, 5):
        outbox.client.enqueue(hours, delay=hours * HOUR)

    began = outbox.now()
    report = outbox.drain(nothing, ahead=4 * HOUR)
    assert [job.json() for job in report.done] == [1, 2, 3]
    assert outbox.now() - began == 4 * HOUR
    assert [job.json() for job in outbox.drain(nothing, ahead=HOUR).done] == [5]


def test_time_stands_still_however_slow_the_machine_is(outbox: Outbox) -> None:
    def handle(jobs):
        outbox.client.enqueue("again", topic="again")
        outbox.client.enqueue("later", topic="later", delay=0.05)
        return {jobs[0].id: Retry(after=0.05)}

    def due(table: str) -> bool:
        with psycopg.connect(outbox.dsn) as connection:
            statement = f"select bool_and(due_at <= clock_timestamp()) from outbox.{table}"
            return bool(connection.execute(statement.encode()).fetchall()[0][0])

    outbox.client.enqueue("first", topic="first")
    assert [job.topic for job in outbox.drain(handle, max_jobs=1).jobs] == ["first"]
    before = outbox.failed()
    assert eventually(lambda: due("failed") and due("scheduled"))
    assert [job.topic for job in outbox.drain(lambda jobs: None).jobs] == ["again"]
    assert outbox.failed() == before
    outbox.travel(timedelta(seconds=0.05))
    assert sorted(job.topic for job in outbox.drain(lambda jobs: None).jobs) == ["first", "later"]


def test_a_retry_does_not_come_while_others_run(outbox: Outbox) -> None:
    def overdue() -> bool:
        with psycopg.connect(outbox.dsn) as connection:
            statement = "select due_at < clock_timestamp() - interval '0.3 s' from outbox.failed"
            return connection.execute(statement).fetchall() == [(True,)]

    def handle(jobs):
        if jobs[0].id == 1:
            return {1: Retry(after=0.01)}

        assert eventually(overdue)
        return None

    outbox.client.enqueue("first")
    outbox.client.enqueue("second")
    assert outbox.drain(handle, batch_size=1).ids == [1, 2]


def test_a_job_that_is_put_off_while_time_passes_counts_from_then(outbox: Outbox) -> None:
    def remind(jobs):
        for job in jobs:
            if job.topic == "first":
                outbox.client.enqueue("second", topic="second", delay=HOUR)

    outbox.client.enqueue("first", topic="first", delay=HOUR)
    assert [job.topic for job in outbox.drain(remind, ahead=1.5 * HOUR).done] == ["first"]
    assert [job.topic for job in outbox.drain(remind, ahead=HOUR / 2).done] == ["second"]


def test_the_time_of_a_job_stays_what_the_test_takes_it_for(outbox: Outbox) -> None:
    at = datetime(2100, 1, 1, 9, tzinfo=UTC)
    outbox.client.enqueue(1, run_at=at)
    outbox.travel(24 * HOUR)
    assert [job.run_at for job in outbox.jobs()] == [at]

    outbox.travel(at - outbox.now())
    assert [job.id for job in outbox.drain(nothing).done] == [1]


def test_a_retry_becomes_due(outbox: Outbox) -> None:
    def handle(jobs):
        return [job.id for job in jobs if job.attempt == 1]

    outbox.client.enqueue(1)
    outbox.drain(handle)
    (failed,) = outbox.failed()
    assert failed.due_at is not None
    assert outbox.drain(handle).jobs == []

    outbox.travel(failed.due_at - outbox.now())
    assert [job.attempt for job in outbox.drain(handle).done] == [2]
    assert outbox.failed() == []


def test_a_job_that_is_put_off(outbox: Outbox) -> None:
    def handle(jobs):
        if jobs[0].attempt < 3:
            raise Snooze(after=HOUR)

    outbox.client.enqueue(1)
    report = outbox.drain(handle, ahead=2 * HOUR)
    report.assert_done()
    assert [each.outcome for each in report.executions] == ["snooze", "snooze", "done"]
    assert len(report.snoozed) == 2


@pytest.mark.parametrize("mode", ["polling", "logical"])
def test_a_job_expires(outbox: Outbox, mode: str) -> None:
    outbox.client.enqueue("now", time_to_live=HOUR)
    outbox.client.enqueue("later", delay=HOUR, time_to_live=HOUR)
    # Half an hour is left to the second one: expiry goes by the real clock, however slow we are.
    outbox.travel(1.5 * HOUR)
    report = outbox.drain(nothing, mode=mode)
    assert [job.json() for job in report.done] == ["later"]
    assert [(job.id, job.reason) for job in report.dead] == [(1, "expired")]
    with pytest.raises(AssertionError, match="job 1, topic 'default': dead, expired"):
        report.assert_done()


def test_everything_that_has_a_time_is_moved(outbox: Outbox) -> None:
    with psycopg.connect(outbox.dsn) as connection:
        connection.execute("""
            set search_path = outbox;
            insert into immediate (payload, expires_at) values ('1', '2100-01-02Z');
            insert into scheduled (payload, due_at, expires_at)
            values ('1', '2100-01-02Z', '2100-01-02Z');
            insert into failed (consumer, id, due_at, attempt, created_at, topic, payload, errors,
                                expires_at)
            values ('c', 9, '2100-01-02Z', 1, now(), 't', '1', '[]', '2100-01-02Z');
            insert into parked (consumer, key, id, attempt, times, created_at, topic, payload,
                                errors, expires_at)
            values ('c', 'k', 10, 1, 1, now(), 't', '1', '[]', '2100-01-02Z');
            insert into dedup values ('t', 'k', 1, '2100-01-02Z');
            insert into recurring (name, cron, payload, next_at, last_at)
            values ('r', '* * * * *', '1', '2100-01-02Z', '2100-01-02Z');
        """)

    outbox.travel(timedelta(days=1))
    with psycopg.connect(outbox.dsn) as connection:
        times = connection.execute("""
            select expires_at from outbox.immediate
            union all select due_at from outbox.scheduled
            union all select expires_at from outbox.scheduled
            union all select due_at from outbox.failed
            union all select expires_at from outbox.failed
            union all select expires_at from outbox.parked
            union all select until from outbox.dedup
            union all select next_at from outbox.recurring
            union all select last_at from outbox.recurring
        """).fetchall()

    assert times == [(datetime(2100, 1, 1, tzinfo=UTC),)] * 9


def test_time_does_not_go_back(outbox: Outbox) -> None:
    with pytest.raises(ValueError, match="time cannot go back, by -1 day"):
        outbox.travel(timedelta(days=-1))
