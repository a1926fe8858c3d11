"""What a call writes is committed with the outcome of its jobs, or not at all."""

from typing import Any

import psycopg
import pytest

from pgcdc_outbox import Dead, Job, NewJob, Retry, RetryPolicy
from pgcdc_outbox.events import BatchHandled, BatchSettled, OutcomesRecorded
from tests.effects import Effecting, effects, make_ledger, write
from tests.harness import Outbox, Watcher, consumer, running
from tests.wait import eventually_async

IN_BOTH_MODES = True

Connection = psycopg.AsyncConnection[Any]

LATER = RetryPolicy(first_delay=3600)


@pytest.fixture
def outbox(outbox: Outbox) -> Outbox:
    make_ledger(outbox)
    return outbox


async def run_once(outbox: Outbox, handler: Any, **options: Any) -> None:
    await consumer(outbox, handler, **options).run(once=True)


@pytest.mark.parametrize("together", [False, True])
async def test_effects_are_committed_with_the_outcome(outbox: Outbox, together: bool) -> None:
    ids = outbox.put(range(30))

    await run_once(outbox, Effecting(together=together), batch_size=7)

    assert effects(outbox) == [(i, 1) for i in ids]


async def test_nothing_is_seen_before_the_commit(outbox: Outbox) -> None:
    ids = outbox.put(range(3))
    watcher = Watcher()
    seen: dict[str, Any] = {}

    def look(event: Any) -> None:
        watcher(event)
        if isinstance(event, (BatchHandled, BatchSettled)):
            seen.setdefault(type(event).__name__, effects(outbox))

    await run_once(outbox, Effecting(), observers=[look])

    assert seen == {"BatchHandled": [], "BatchSettled": [(i, 1) for i in ids]}


async def test_a_part_that_raises_is_undone_and_no_other(outbox: Outbox) -> None:
    first, bad, last = outbox.put(["good", "bad", "good"])

    async def body(job: Job, connection: Connection) -> None:
        await write(job, connection)
        if job.json() == "bad" and job.attempt == 1:
            raise ValueError("not yet")

    async with running(consumer(outbox, Effecting(body))):
        await eventually_async(lambda: _has(outbox, "public.effect", 3))

    assert effects(outbox) == [(first, 1), (bad, 2), (last, 1)]


async def _has(outbox: Outbox, table: str, rows: int) -> bool:
    return bool(outbox.value(f"select count(*) from {table}") == rows)


async def test_a_database_error_in_a_part_fails_its_job_alone(outbox: Outbox) -> None:
    ids = outbox.put(range(3))
    outbox.rows(f"alter table public.effect add check (id <> {ids[0]})")

    await run_once(outbox, Effecting(), retry=LATER)

    assert effects(outbox) == [(i, 1) for i in ids[1:]]
    ((id_, error),) = outbox.rows("select id, errors -> -1 ->> 'error' from failed")
    assert (id_, error) == (ids[0], "psycopg.errors.CheckViolation")


async def test_an_outcome_that_is_returned_keeps_what_was_done(outbox: Outbox) -> None:
    (id_,) = outbox.put(["x"])

    async def body(job: Job, connection: Connection) -> Any:
        await write(job, connection)
        return Dead("enough") if job.attempt == 2 else Retry(0)

    async with running(consumer(outbox, Effecting(body))):
        await eventually_async(lambda: _has(outbox, "dead_letter", 1))

    assert effects(outbox) == [(id_, 1), (id_, 2)]
    assert outbox.rows("select id, reason from dead_letter") == [(id_, "enough")]


async def test_failures_are_in_the_same_transaction(outbox: Outbox) -> None:
    outbox.put(range(4))

    async def body(job: Job, connection: Connection) -> Any:
        await write(job, connection)
        return Retry(3600) if job.json() == 3 else None

    await run_once(outbox, Effecting(body))

    assert outbox.value("select count(*) from public.effect e join failed f on f.xid = e.xid") == 4


class RaisesAfterwards(Effecting):
    async def execute(self, jobs: Any, unit: Any) -> Any:
        await super().execute(jobs, unit)
        raise ValueError("after all")


async def test_a_call_that_raises_keeps_nothing(outbox: Outbox) -> None:
    outbox.put(range(3))

    await run_once(outbox, RaisesAfterwards(), retry=LATER)

    assert effects(outbox) == []
    assert outbox.value("select count(*) from failed") == 3


async def test_a_commit_that_fails_fails_the_jobs_of_the_transaction(outbox: Outbox) -> None:
    outbox.rows(
        "alter table public.effect add constraint late unique (note) deferrable initially deferred"
    )
    ids = outbox.put(range(3))
    watcher = Watcher()

    async def body(job: Job, connection: Connection) -> None:
        await connection.execute(
            "insert into public.effect values (%s, %s, %s)",
            [job.id, job.attempt, "same" if job.json() < 2 else "other"],
        )

    handler = Effecting(body)
    async with running(consumer(outbox, handler, observers=[watcher])):
        await eventually_async(lambda: _has(outbox, "dead_letter", 1))
        await eventually_async(lambda: _has(outbox, "public.effect", 2))

    # Nobody knew whose fault it was, so each came alone.
    assert len(handler.batches[0]) == 3
    assert all(len(batch) == 1 for batch in handler.batches[1:])
    (dead,) = outbox.rows("select id from dead_letter")[0]
    assert dead in ids[:2]
    assert effects(outbox) == [(i, 2) for i in ids if i != dead]
    assert outbox.value("select errors -> -1 ->> 'error' from dead_letter") == (
        "psycopg.errors.UniqueViolation"
    )
    assert watcher.of(OutcomesRecorded)


async def test_what_is_enqueued_in_a_part_shares_its_fate(outbox: Outbox) -> None:
    outbox.put(["first", "bad"], topic="start")

    class Enqueues(Effecting):
        async def execute(self, jobs: Any, unit: Any) -> Any:
            errors = {}
            for job in jobs:
                if job.topic != "start":
                    self.batches.append([job])
                    self._changed.set()
                    continue
                try:
                    async with unit.effects([job]) as part:
                        await part.enqueue([NewJob(payload=job.json(), topic="next")])
                        if job.json() == "bad":
                            raise ValueError
                except ValueError as error:
                    errors[job.id] = Dead(str(error))

            return errors

    handler = Enqueues()
    async with running(consumer(outbox, handler)):
        await handler.got(1)

    assert handler.values == ["first"]
    assert outbox.value("select count(*) from immediate where topic = 'next'") == 1


async def test_what_a_unit_enqueues_is_committed_at_once(outbox: Outbox) -> None:
    outbox.put(["x"], topic="start")

    class Enqueues(Effecting):
        async def execute(self, jobs: Any, unit: Any) -> Any:
            self.batches.append(list(jobs))
            self._changed.set()
            if jobs[0].topic == "start":
                self.new = await unit.enqueue([NewJob(payload=1), NewJob(payload=2)])
                raise Dead("anyway")

    handler = Enqueues()
    async with running(consumer(outbox, handler)):
        await handler.got(3)

    assert handler.ids[1:] == handler.new


async def test_no_connection_is_opened_unless_a_call_wants_one(outbox: Outbox) -> None:
    outbox.put(range(3))
    looks: list[set[tuple[Any, ...]]] = []

    def look() -> None:
        looks.append(
            set(
                outbox.rows(
                    "select pid from pg_stat_activity "
                    "where datname = current_database() and application_name like 'pgcdc-outbox/%%'"
                )
            )
        )

    class Executes:
        async def execute(self, jobs: Any, unit: Any) -> None:
            look()
            async with unit.effects(jobs):
                look()

    await run_once(outbox, Executes())

    # One of the first look may only just have been closed, and be gone at the second.
    assert len(looks[1] - looks[0]) == 1


async def test_connections_are_kept_one_for_each_call(outbox: Outbox) -> None:
    outbox.put(range(40))
    pids: set[int] = set()

    async def body(job: Job, connection: Connection) -> None:
        pids.add(connection.info.backend_pid)

    await run_once(outbox, Effecting(body), batch_size=2, concurrency=2)

    assert 1 <= len(pids) <= 2


async def test_a_lost_connection_fails_the_call_and_another_is_opened(outbox: Outbox) -> None:
    ids = outbox.put(range(2))
    pids: list[int] = []

    async def body(job: Job, connection: Connection) -> None:
        pids.append(connection.info.backend_pid)
        await write(job, connection)
        if len(pids) == 2:
            outbox.rows("select pg_terminate_backend(%s)", [pids[-1]])
            await connection.execute("select 1")

    handler = Effecting(body)
    async with running(consumer(outbox, handler)):
        await eventually_async(lambda: _has(outbox, "public.effect", 2))

    assert effects(outbox) == [(i, 2) for i in ids]
    assert len(set(pids)) == 2
