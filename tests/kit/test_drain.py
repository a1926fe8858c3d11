"""`drain`: the real consumer, until there is nothing left to do."""

from datetime import timedelta

import psycopg
import pytest

from pgcdc_outbox import Client, Dead, NewJob, Retry, RetryPolicy
from pgcdc_outbox.errors import HandlerInvalid, SettingsError
from pgcdc_outbox.testing import DrainTimeout, Outbox

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version

ONCE = RetryPolicy(max_attempts=1)
AT_ONCE = RetryPolicy(max_attempts=3, first_delay=0)


class Shop:
    """A handler that remembers, and is closed."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.closed = 0

    def handle(self, jobs):
        self.seen += [job.id for job in jobs]

    def close(self):
        self.closed += 1


@pytest.mark.parametrize("mode", ["polling", "logical"])
def test_everything_that_is_there_is_executed_once(outbox: Outbox, mode: str) -> None:
    shop = Shop()
    ids = outbox.client.enqueue_many([NewJob(payload=number) for number in range(250)])
    report = outbox.drain(shop, mode=mode)
    assert [job.id for job in report.done] == ids == shop.seen
    assert [job.json() for job in report.jobs] == list(range(250))
    assert shop.closed == 1
    report.assert_done()

    assert outbox.drain(shop, mode=mode).jobs == []


def test_what_the_handler_enqueues_is_drained_too(outbox: Outbox) -> None:
    def handle(jobs):
        for job in jobs:
            if (count := job.json()) > 0:
                outbox.client.enqueue(count - 1)

    outbox.client.enqueue(3)
    assert [job.json() for job in outbox.drain(handle).done] == [3, 2, 1, 0]

    outbox.client.enqueue(3)
    assert [job.json() for job in outbox.drain(handle, until_empty=False).done] == [3]
    assert [job.json() for job in outbox.drain(handle).done] == [2, 1, 0]


async def test_awaited(outbox: Outbox) -> None:
    async def handle(jobs):
        return [job.id for job in jobs if job.attempt == 1]

    number = await outbox.async_client.enqueue({"order": 1})
    report = await outbox.adrain(handle, retry=AT_ONCE)
    assert [(each.job.id, each.outcome) for each in report.executions] == [
        (number, "retry"),
        (number, "done"),
    ]
    report.assert_done()


async def test_inside_a_loop_it_says_what_to_use(outbox: Outbox) -> None:
    with pytest.raises(RuntimeError, match=r"use `await outbox.adrain"):
        outbox.drain(lambda jobs: None)


def test_outcomes_are_those_in_the_tables(outbox: Outbox) -> None:
    def handle(jobs):
        # An int and a float: they were once too much for one list.
        return {1: Dead("no such order"), 2: ValueError("odd"), 3: Retry(60)}

    outbox.client.enqueue_many([NewJob(payload=number, topic="t") for number in range(4)])
    report = outbox.drain(handle)
    assert [(each.job.id, each.outcome) for each in report.executions] == [
        (1, "dead"),
        (2, "retry"),
        (3, "retry"),
        (4, "done"),
    ]
    assert [str(each.error) for each in report.executions[:2]] == ["no such order", "odd"]
    ((dead),) = report.dead
    assert (dead.id, dead.reason, dead.topic) == (1, "no such order", "t")
    assert outbox.dead() == [dead]
    assert [(job.id, job.error, job.text) for job in outbox.failed()] == [
        (2, "ValueError", "odd"),
        (3, "pgcdc_outbox.outcome.Retry", ""),
    ]
    with pytest.raises(AssertionError, match=r"(?s)not every job is done.*ValueError: odd") as told:
        report.assert_done()

    assert isinstance(told.value.__cause__, Dead)


def test_a_dead_letter_that_no_handler_saw_is_told_of(outbox: Outbox) -> None:
    with psycopg.connect(outbox.dsn) as connection:
        connection.execute("insert into outbox.immediate (payload) values ('{')")

    def handle(jobs):
        for job in jobs:
            job.json()

    report = outbox.drain(handle)
    assert [job.reason for job in report.dead] == ["undecodable"]
    with pytest.raises(AssertionError, match="dead"):
        report.assert_done()

    assert outbox.drain(handle).dead == []


def test_as_many_as_wanted(outbox: Outbox) -> None:
    shop = Shop()
    outbox.client.enqueue_many([NewJob(payload=number) for number in range(5)])
    assert len(outbox.drain(shop, max_jobs=2).done) == 2
    assert shop.seen == [1, 2]
    outbox.drain(shop)
    assert shop.seen == [1, 2, 3, 4, 5]


def test_each_name_gets_each_job(outbox: Outbox) -> None:
    outbox.client.enqueue(1)
    assert outbox.drain(Shop(), name="mail").ids == outbox.drain(Shop(), name="bill").ids == [1]


def test_retries_that_fall_due_in_the_time_to_come(outbox: Outbox) -> None:
    outbox.client.enqueue(1)

    def handle(jobs):
        raise ValueError("never")

    report = outbox.drain(handle, ahead=timedelta(days=1))
    assert [each.job.attempt for each in report.executions] == list(range(1, 11))
    assert [each.outcome for each in report.executions] == ["retry"] * 9 + ["dead"]
    assert [job.reason for job in report.dead] == ["exhausted"]


def test_each_job_twice_as_after_a_crash(outbox: Outbox) -> None:
    calls: dict[int, int] = {}

    def handle(jobs):
        for job in jobs:
            calls[job.id] = calls.get(job.id, 0) + 1

        return [job.id for job in jobs if job.id == 2 and job.attempt == 1]

    outbox.client.enqueue_many([NewJob(payload=number) for number in range(3)])
    report = outbox.drain(handle, deliver_twice=True, retry=AT_ONCE)
    assert calls == {1: 2, 2: 4, 3: 2}
    assert sorted(job.id for job in report.done) == [1, 2, 3]
    assert [(job.id, job.attempt) for job in report.interrupted] == [
        *((id_, 1) for id_ in (1, 2, 3)),
        (2, 2),
    ]
    report.assert_done()


class Transactional:
    """A handler whose effects commit with the outcome of its jobs."""

    calls = 0

    async def execute(self, jobs, unit):
        self.calls += len(jobs)
        async with unit.effects(jobs) as part:
            connection = await part.connection(psycopg.AsyncConnection)
            for job in jobs:
                await connection.execute("insert into effect values (%s)", [job.id])


@pytest.mark.parametrize("mode", ["polling", "logical"])
def test_delivered_twice_a_transactional_handler_has_one_effect(outbox: Outbox, mode: str) -> None:
    with psycopg.connect(outbox.dsn) as connection:
        connection.execute("drop table if exists effect; create table effect (id bigint)")

    handler = Transactional()
    outbox.client.enqueue_many([NewJob(payload=number) for number in range(5)])
    outbox.drain(handler, deliver_twice=True, mode=mode).assert_done()
    with psycopg.connect(outbox.dsn) as connection:
        effects = connection.execute("select id from effect order by id").fetchall()

    assert effects == [(number,) for number in range(1, 6)]
    assert handler.calls == 10


class Irreversible:
    """A handler that is never to be repeated."""

    calls = 0

    async def execute(self, jobs, unit):
        await unit.begin_once(jobs)
        self.calls += len(jobs)


@pytest.mark.parametrize("mode", ["polling", "logical"])
def test_delivered_twice_what_runs_once_is_in_doubt(outbox: Outbox, mode: str) -> None:
    handler = Irreversible()
    outbox.client.enqueue(1)
    report = outbox.drain(handler, deliver_twice=True, mode=mode)
    assert handler.calls == 1
    assert [job.reason for job in report.dead] == ["in_doubt"]


@pytest.mark.parametrize("mode", ["polling", "logical"])
def test_cut_off_after_an_execution_it_comes_again(outbox: Outbox, mode: str) -> None:
    shop = Shop()
    outbox.client.enqueue_many([NewJob(payload=number) for number in range(3)])
    report = outbox.drain(shop, interrupt_after=2, mode=mode)
    assert [(each.job.id, each.outcome) for each in report.executions] == [
        (1, "done"),
        (2, "interrupted"),
    ]
    outbox.drain(shop, mode=mode)
    assert shop.seen == [1, 2, 2, 3]


def test_a_handler_that_does_not_end_is_not_waited_for(outbox: Outbox) -> None:
    def handle(jobs):
        outbox.client.enqueue("again")

    outbox.client.enqueue("first")
    with pytest.raises(DrainTimeout, match=r"not drained within 1 s: \d+ executions.*\d+ jobs"):
        outbox.drain(handle, timeout=1)


def test_what_a_consumer_would_refuse_is_refused(outbox: Outbox) -> None:
    with pytest.raises(HandlerInvalid, match="neither a function"):
        outbox.drain(7)

    with pytest.raises(SettingsError, match="batch_size: 0"):
        outbox.drain(Shop(), batch_size=0)

    with pytest.raises(TypeError, match="bach_size"):
        outbox.drain(Shop(), bach_size=1)

    with pytest.raises(ValueError, match="max_jobs: 0 is not"):
        outbox.drain(Shop(), max_jobs=0)


def test_a_client_of_the_environment_leads_to_the_same_outbox(outbox: Outbox) -> None:
    with Client() as client:
        client.enqueue(1)

    assert outbox.drain(Shop(), retry=ONCE).ids == [1]
