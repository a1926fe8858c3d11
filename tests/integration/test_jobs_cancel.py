"""Cancelling: true means that it is not executed any more; false says why."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import psycopg
import pytest

from pgcdc_outbox import Dead, Job, Jobs, Retry
from pgcdc_outbox.postgres.jobs.cancelling import Cancelling
from pgcdc_outbox.postgres.queries import query
from tests.harness import Outbox, Recorder, Watcher, consumer, running, streaming
from tests.wait import eventually

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version

IN_BOTH_MODES = True

LONG = 3600.0


def cancel(outbox: Outbox, id_: int, **options: Any) -> Cancelling:
    (result,) = Jobs(outbox.dsn).cancel([id_], **options)
    return result


async def once(outbox: Outbox, handler: Any, **options: Any) -> None:
    with anyio.fail_after(120):
        await consumer(outbox, handler, **options).run(once=True)


def retrying(jobs: Sequence[Job]) -> dict[int, Retry]:
    return {job.id: Retry(after=LONG, error="busy") for job in jobs}


async def nothing_comes(outbox: Outbox) -> None:
    """Everything that could be due is, and none of it is executed."""
    outbox.rows("update scheduled set due_at = clock_timestamp() - interval '1 second'")
    outbox.rows("update failed set due_at = clock_timestamp() - interval '1 second'")
    recorder = Recorder()
    await once(outbox, recorder)
    assert recorder.jobs == []


async def test_a_scheduled_job(outbox: Outbox) -> None:
    await once(outbox, Recorder())
    (id_,) = outbox.put([1], delay=LONG)
    result = cancel(outbox, id_)
    assert (result.cancelled, result.place, result.consumers) == (True, "scheduled", ())
    await nothing_comes(outbox)

    again = cancel(outbox, id_)
    assert not again.cancelled
    assert again.remedy == "Nothing is left to be cancelled."


async def test_a_failed_job_leaves_a_trace_and_does_not_come_again(outbox: Outbox) -> None:
    (id_,) = outbox.put([1])
    await once(outbox, Recorder(retrying))
    result = cancel(outbox, id_)
    assert (result.cancelled, result.place, result.consumers) == (True, "failed", ("default",))
    assert outbox.rows("select consumer, id, attempt, parked from trace") == [
        ("default", id_, 1, None)
    ]
    # Not even when everything is read again.
    if outbox.mode == "logical":
        # The server may notice late that its reader has gone.
        eventually(lambda: not outbox.slot()["active"], timeout=60)
        outbox.rows(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots "
            "where database = current_database()"
        )

    outbox.rows(
        "update checkpoint set snapshot = '1:1:', target = null, target_lsn = null, "
        "cursor_xid = null, cursor_id = null"
    )
    await nothing_comes(outbox)
    standing = Jobs(outbox.dsn).show(id_).consumers[0]
    assert standing.about == "attempt 1 failed, and the job was cancelled since"


async def test_the_holder_of_a_key_lets_go_of_it(outbox: Outbox) -> None:
    (holder,) = outbox.put([1], key="k")
    await once(outbox, Recorder(retrying))
    outbox.rows(
        "insert into held_key (consumer, key, id) values ('default', 'k', %s), ('other', 'k', %s)",
        [holder, holder],
    )
    assert cancel(outbox, holder, consumer="default").cancelled
    assert outbox.rows("select consumer, id from held_key order by 1") == [
        ("default", None),
        ("other", holder),
    ]


async def test_a_parked_job(outbox: Outbox) -> None:
    (id_,) = outbox.put([1], key="k")
    await once(outbox, Recorder(retrying))
    outbox.rows(
        "with gone as (delete from failed returning *) "
        "insert into parked (consumer, key, id, attempt, times, created_at, topic, payload, errors)"
        " select consumer, key, id, 2, 1, created_at, topic, payload, errors from gone"
    )
    outbox.rows(
        "insert into trace (consumer, id, attempt, parked) values ('default', %s, 2, 1)", [id_]
    )
    result = cancel(outbox, id_)
    assert (result.cancelled, result.place) == (True, "parked")
    assert outbox.rows("select attempt, parked from trace") == [(2, None)]
    await nothing_comes(outbox)


async def test_one_in_line_cannot_be_taken_back(outbox: Outbox) -> None:
    await once(outbox, Recorder())
    (id_,) = outbox.put([1])
    result = cancel(outbox, id_)
    assert not result.cancelled
    assert result.reason.startswith("in line for attempt 1")
    assert "let the handler pass over it" in result.remedy


async def test_nor_while_it_runs_nor_afterwards(outbox: Outbox) -> None:
    started, release, watcher = anyio.Event(), anyio.Event(), Watcher()

    async def handle(jobs: Sequence[Job]) -> None:
        started.set()
        await release.wait()

    async with streaming(consumer(outbox, handle, observers=[watcher], audit="all"), watcher):
        (id_,) = outbox.put([1])
        await started.wait()
        result = await anyio.to_thread.run_sync(cancel, outbox, id_)
        assert not result.cancelled
        assert "may be executing it" in result.reason
        release.set()
        await outbox.settled()

    result = cancel(outbox, id_)
    assert not result.cancelled
    assert "succeeded" in result.reason
    assert "undone by other means" in result.remedy


async def test_a_dead_one_and_one_that_never_was(outbox: Outbox) -> None:
    (id_,) = outbox.put([1])
    await once(outbox, Recorder(lambda jobs: {jobs[0].id: Dead("no use")}))
    result = cancel(outbox, id_)
    assert (result.cancelled, result.remedy) == (
        False,
        f"It does not run again by itself; `pgcdc-outbox dead discard {id_}` removes it.",
    )
    result = cancel(outbox, id_ + 1)
    assert "highest id given out" in result.reason


@pytest.mark.logical_only
async def test_for_one_consumer_and_not_for_the_others(outbox: Outbox) -> None:
    (id_,) = outbox.put([1])
    for name in ("a", "b"):
        await once(outbox, Recorder(retrying), name=name)

    result = cancel(outbox, id_, consumer="a")
    assert (result.cancelled, result.consumers) == (True, ("a",))
    assert outbox.rows("select consumer from failed") == [("b",)]
    refused = cancel(outbox, id_, consumer="a")
    assert not refused.cancelled
    assert "cancelled since" in refused.reason

    (later,) = outbox.put([2], delay=LONG)
    refused = cancel(outbox, later, consumer="a")
    assert not refused.cancelled
    assert "for every consumer" in refused.reason
    assert cancel(outbox, later).cancelled


async def test_against_promotion_from_many_threads(outbox: Outbox) -> None:
    """Jobs fall due while they are cancelled: each is cancelled or executed, none is both."""
    await once(outbox, Recorder())
    count, threads = 400, 8
    scheduled = outbox.put(range(count), delay=LONG)
    failed = outbox.put(range(count))
    first = Recorder(retrying)
    await once(outbox, first, batch_size=count)
    assert sorted(first.ids) == failed

    wanted = [*scheduled, *failed]
    results: list[Cancelling] = []
    lock, next_id = threading.Lock(), iter(wanted)

    def work() -> None:
        while True:
            with lock:
                id_ = next(next_id, None)

            if id_ is None:
                return

            result = cancel(outbox, id_)
            with lock:
                results.append(result)

    recorder = Recorder()
    outbox.rows("update failed set due_at = clock_timestamp() + random() * interval '3 seconds'")
    # The first stay as they are: whoever is slow, some are cancelled.
    outbox.rows(
        "update scheduled set due_at = clock_timestamp() + random() * interval '3 seconds' "
        "where id <> all(%s)",
        [scheduled[:5]],
    )
    async with running(consumer(outbox, recorder, promote_interval=0.01)):
        # And some are executed.
        await recorder.got(1, 60)
        with ThreadPoolExecutor(threads) as pool:
            futures = [pool.submit(work) for _ in range(threads)]
            for future in futures:
                await anyio.to_thread.run_sync(future.result)

        cancelled = {result.id for result in results if result.cancelled}
        await recorder.until(lambda: len(set(recorder.ids)) >= len(wanted) - len(cancelled), 120)

    await nothing_comes(outbox)
    assert 0 < len(cancelled) < len(wanted)
    assert cancelled & set(recorder.ids) == set()
    assert cancelled | set(recorder.ids) == set(wanted)


async def test_whoever_comes_while_it_is_promoted_waits_and_hears_false(outbox: Outbox) -> None:
    (failed,) = outbox.put([1])
    await once(outbox, Recorder(retrying))
    (scheduled,) = outbox.put([1], delay=LONG)
    outbox.rows("update scheduled set due_at = clock_timestamp() - interval '1 second'")
    outbox.rows("update failed set due_at = clock_timestamp() - interval '1 second'")
    with ThreadPoolExecutor(2) as pool, psycopg.connect(outbox.dsn) as promoting:
        promoting.execute(
            query("promote", outbox.schema).encode(), {"consumer": "default", "limit": 10}
        )
        answers = [pool.submit(cancel, outbox, id_) for id_ in (failed, scheduled)]
        eventually(lambda: _waiting(outbox) == 2, timeout=60)
        promoting.commit()
        for answer in answers:
            result = answer.result()
            assert not result.cancelled
            assert "in line" in result.reason

    assert outbox.value("select count(*) from trace where attempt > 1") == 0
    recorder = Recorder()
    await once(outbox, recorder)
    assert sorted(recorder.ids) == [failed, scheduled]


def _waiting(outbox: Outbox) -> int:
    return int(
        outbox.value(
            "select count(*) from pg_stat_activity "
            "where wait_event_type = 'Lock' and datname = current_database()"
        )
    )
