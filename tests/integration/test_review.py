"""Cases that were found by looking for ways in which a consumer goes wrong."""

import asyncio
from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from anyio import to_thread

from pgcdc_outbox import Job
from pgcdc_outbox.events import Streaming
from pgcdc_outbox.postgres.migrate import migrate
from tests.harness import Outbox, Recorder, Watcher, consumer, streaming

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
    done, _ = await asyncio.wait([task], timeout=8)
    subject.stop()
    await asyncio.wait([task], timeout=8)

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
        await anyio.sleep(0.5)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                stopped = anyio.Event()

                async def stop() -> None:
                    await to_thread.run_sync(lambda: server.stop("fast"))
                    stopped.set()

                group.start_soon(stop)
                await anyio.sleep(0.5)
                if fails:
                    release.set()
                with anyio.move_on_after(12):
                    await stopped.wait()
                in_time = stopped.is_set()
                subject.stop()
                subject.stop()
    assert not scope.cancelled_caught
    assert in_time


async def test_once_ends_with_no_pause_between_promotions(outbox: Outbox) -> None:
    outbox.put([1])
    recorder = Recorder()
    with anyio.fail_after(10):
        await consumer(outbox, recorder, promote_interval=0).run(once=True)

    assert recorder.values == [1]
