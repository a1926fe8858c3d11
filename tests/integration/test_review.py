"""Cases that were found by looking for ways in which a consumer goes wrong."""

import asyncio

import pytest

from pgcdc_outbox.events import Streaming
from tests.harness import Outbox, Recorder, Watcher, consumer

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
