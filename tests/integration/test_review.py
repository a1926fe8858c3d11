"""Cases that were found by looking for ways in which a consumer goes wrong."""

import asyncio
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from pgcdc_outbox import Job
from pgcdc_outbox.events import Streaming
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
