"""Cases that were found by looking for ways in which a consumer goes wrong."""

import asyncio
from collections.abc import Sequence
from typing import Any

import anyio
import psycopg
import pytest
from anyio import to_thread

from pgcdc_outbox import Job
from pgcdc_outbox.events import CheckpointSaved, Disconnected, JobDead, SlotCreated, Streaming
from pgcdc_outbox.postgres.migrate import migrate
from pgcdc_outbox.postgres.source.page import Part
from pgcdc_outbox.postgres.source.span import Pages
from tests.harness import Outbox, Recorder, Watcher, consumer, streaming
from tests.wait import eventually_async

pytestmark = pytest.mark.anyio


async def test_a_cancelled_run_ends_although_the_last_report_fails(outbox: Outbox) -> None:
    watcher = Watcher()
    subject = consumer(outbox, Recorder(), observers=[watcher], checkpoint_interval=60)
    task = asyncio.create_task(subject.run())
    await watcher.saw(Streaming)
    # Everything but the reader's own connection, whose loss would be noticed at once.
    outbox.rows(
        "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() "
        "and datname = current_database() and backend_type = 'client backend'"
    )
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=60)
    subject.stop()
    await asyncio.wait([task], timeout=60)

    assert done, "the cancellation was lost"
    assert task.cancelled()


async def test_what_is_done_is_known_after_two_lost_connections_too(outbox: Outbox) -> None:
    release = anyio.Event()

    async def handle(jobs: Sequence[Job]) -> None:
        await recorder(jobs)
        if jobs[0].topic == "slow":
            await release.wait()

    cuts = 0

    def cut(event: Any) -> None:
        # The second hold ends before it has read anything.
        nonlocal cuts
        if isinstance(event, Streaming):
            cuts += 1
            if cuts == 2:
                outbox.end_slot_reader()

    recorder, watcher = Recorder(), Watcher()
    subject = consumer(
        outbox, handle, observers=[cut, watcher], concurrency=3, batch_size=5, drain_timeout=1
    )
    async with streaming(subject, watcher):
        slow = outbox.put(["x"], topic="slow")
        await recorder.got(1)
        quick = [id_ for n in range(20) for id_ in outbox.put([n])]
        await recorder.got(21)
        outbox.end_slot_reader()
        # The slow one is cut off when the drain ends, and comes again.
        await watcher.saw(Streaming, 3)
        release.set()
        last = outbox.put(["last"])
        await recorder.until(lambda: last[0] in recorder.ids)

    assert [recorder.ids.count(id_) for id_ in quick] == [1] * 20
    assert slow


async def test_what_is_done_is_known_after_a_crash_of_the_server_took_the_position_back(
    outbox: Outbox,
) -> None:
    """Positions are saved without waiting for the disk, and the process has not forgotten."""

    def take_back(event: Any) -> None:
        if isinstance(event, Disconnected):
            outbox.rows("update checkpoint set flushed = %s", [durable])

    recorder, watcher = Recorder(), Watcher()
    subject = consumer(outbox, recorder, observers=[take_back, watcher], checkpoint_interval=60)
    async with streaming(subject, watcher):
        # For good, and then no more for a minute. If the server's first words come late,
        # the second one is a minute late, too.
        await watcher.saw(CheckpointSaved, 2, timeout=180)
        durable = outbox.value("select flushed::text from checkpoint")
        ids = outbox.put(range(10))
        await recorder.got(10)
        await eventually_async(lambda: _was_told_beyond(outbox, durable))
        outbox.end_slot_reader()
        await watcher.saw(Streaming, 2)
        ids += outbox.put([10])
        await recorder.until(lambda: ids[-1] in recorder.ids)

    assert recorder.ids == ids
    assert len(watcher.of(SlotCreated)) == 1


async def _was_told_beyond(outbox: Outbox, position: str) -> bool:
    return bool(
        outbox.rows(
            "select from pg_replication_slots where database = current_database() "
            "and confirmed_flush_lsn > %s::pg_lsn",
            [position],
        )
    )


@pytest.mark.parametrize("jobs", [10, 2500])
async def test_a_stop_while_rereading_the_table_repeats_nothing(outbox: Outbox, jobs: int) -> None:
    ids = outbox.put(range(jobs))

    def then(batch: Sequence[Job]) -> None:
        if len(first.jobs) >= jobs // 2:
            subject.stop()

    first, second = Recorder(then), Recorder()
    subject = consumer(outbox, first, batch_size=10)
    await subject.run()
    await consumer(outbox, second, batch_size=10).run(once=True)

    assert sorted(first.ids + second.ids) == ids


async def test_a_row_that_is_no_job_is_a_dead_letter_when_reread_too(outbox: Outbox) -> None:
    outbox.rows("alter table immediate drop constraint immediate_headers_check")
    outbox.rows("insert into immediate (payload, headers) values ('1', '[1, 2]')")
    outbox.rows("insert into immediate (payload, history) values ('1', '{\"errors\": 5}')")
    outbox.put(["good"])
    recorder = Recorder()
    await consumer(outbox, recorder).run(once=True)

    assert recorder.values == ["good"]
    assert outbox.rows("select reason from dead_letter") == [("undecodable",)] * 2


@pytest.mark.parametrize("fails", [False, True])
async def test_a_server_that_stops_does_not_wait_for_a_running_job(
    fresh_server: Any, fails: bool
) -> None:
    server = fresh_server()
    migrate(server.dsn())
    outbox = Outbox(server.dsn())
    release = anyio.Event()

    async def handle(jobs: Sequence[Job]) -> None:
        await recorder(jobs)
        if jobs[0].json() == "slow":
            await release.wait()
            if fails:
                raise ValueError("no")

    recorder, watcher = Recorder(), Watcher()
    subject = consumer(outbox, handle, observers=[watcher], drain_timeout=2)
    async with streaming(subject, watcher):
        outbox.put(["first"])
        await recorder.got(1)
        outbox.put(["slow"])
        await recorder.got(2)
        begun = outbox.value("select clock_timestamp()")
        # A position is taken that cannot be passed while the job runs.
        await eventually_async(lambda: _took_position(outbox, begun))
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                stopped = anyio.Event()

                async def stop() -> None:
                    await to_thread.run_sync(lambda: server.stop("fast", timeout=120))
                    stopped.set()

                group.start_soon(stop)
                await eventually_async(lambda: _is_closed_to_others(server.dsn()))
                if fails:
                    release.set()

                with anyio.move_on_after(60):
                    await stopped.wait()
                in_time = stopped.is_set()
                subject.stop()
                subject.stop()

    assert not scope.cancelled_caught
    assert in_time


async def test_once_ends_with_no_pause_between_promotions(outbox: Outbox) -> None:
    outbox.put([1])
    recorder = Recorder()
    with anyio.fail_after(60):
        await consumer(outbox, recorder, promote_interval=0).run(once=True)

    assert recorder.values == [1]


@pytest.mark.parametrize("encoding", ["UTF8", "SQL_ASCII"])
async def test_the_encoding_of_the_database_does_not_matter(server: Any, encoding: str) -> None:
    name = f"enc_{encoding.lower()}"

    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(
            f"create database {name} encoding '{encoding}' locale 'C' template template0".encode()
        )
    try:
        migrate(server.dsn(name))
        outbox = Outbox(server.dsn(name))
        outbox.rows("insert into immediate (payload, topic) values ('0', 'tabled')")

        def fail(jobs: Sequence[Job]) -> None:
            raise ValueError("\N{SNOWMAN} \N{LATIN SMALL LETTER E WITH ACUTE}")

        watcher = Watcher()
        recorder = Recorder(fail)
        async with streaming(consumer(outbox, recorder, observers=[watcher]), watcher):
            outbox.rows("insert into immediate (payload) values ('1')")
            await watcher.saw(JobDead, 2)
    finally:
        server.drop_database(name)


@pytest.mark.parametrize("schema", ['we"ird %s', "100%", "it's", "Übergröße"])
async def test_any_schema_name_works(database: str, schema: str) -> None:
    migrate(database, schema=schema)
    outbox = Outbox(database, schema)
    before = outbox.put([0])
    watcher = Watcher()

    def then(jobs: Sequence[Job]) -> None:
        if jobs[0].attempt == 1 and jobs[0].json() == 1:
            raise ValueError("once")

    recorder = Recorder(then)
    async with streaming(consumer(outbox, recorder, observers=[watcher]), watcher):
        outbox.put([1])
        await recorder.got(3)
        await watcher.saw(CheckpointSaved, 3)

    assert recorder.values == [0, 1, 1]
    assert recorder.ids[0] == before[0]
    assert not watcher.of(Disconnected)


async def test_rereading_large_jobs_takes_little_memory(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox.rows(
        "insert into immediate (payload) select convert_to(repeat('x', 3 * 1024 * 1024), 'UTF8') "
        "from generate_series(1, 30)"
    )
    outbox.put(range(20))
    pages = []
    read = Pages.next

    async def spy(self: Pages) -> list[Part]:
        parts = await read(self)
        pages.append(sum(part.size for part in parts))
        return parts

    monkeypatch.setattr(Pages, "next", spy)
    recorder = Recorder()
    await consumer(outbox, recorder).run(once=True)

    assert len(recorder.ids) == len(set(recorder.ids)) == 50
    assert sum(pages) > 30 * 3 * 1024 * 1024
    assert max(pages) <= 8 * 1024 * 1024


async def _took_position(outbox: Outbox, since: Any) -> bool:
    return bool(
        outbox.rows(
            "select from pg_stat_activity where application_name like 'pgcdc-outbox/%%' "
            "and query like '%%pg_current_wal_insert_lsn%%' and query_start > %s",
            [since],
        )
    )


async def _is_closed_to_others(dsn: str) -> bool:
    try:
        await (await psycopg.AsyncConnection.connect(dsn)).close()
    except psycopg.OperationalError:
        return True

    return False
