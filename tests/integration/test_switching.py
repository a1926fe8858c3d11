"""From the log to polling and back: nothing is lost, and nothing that was done is repeated."""

from collections.abc import Sequence
from contextlib import closing
from typing import Any

import anyio
import psycopg
import pytest

from pgcdc_outbox import Job
from pgcdc_outbox.core import switching
from pgcdc_outbox.events import LogUnavailable, Polling, SlotCreated, SlotReleased, Streaming
from pgcdc_outbox.postgres.migrate import migrate
from tests.harness import READING, Outbox, Recorder, Watcher, consumer, running, streaming
from tests.wait import eventually_async


def slots(outbox: Outbox) -> int:
    return int(
        outbox.value(
            "select count(*) from pg_replication_slots where database = current_database()"
        )
    )


def write_log(outbox: Outbox) -> None:
    """More of it than the tests below allow a slot to keep."""
    outbox.rows("create table filler as select repeat('x', 2000) from generate_series(1, 4000)")


async def _no_slot(outbox: Outbox) -> bool:
    return slots(outbox) == 0


@pytest.mark.parametrize("before", ["logical", "polling"])
@pytest.mark.parametrize("after", ["logical", "polling"])
async def test_a_change_of_mode_while_a_transaction_is_open(
    outbox: Outbox, before: str, after: str
) -> None:
    recorder, watcher = Recorder(), Watcher()

    def in_mode(mode: str) -> Any:
        return consumer(outbox, recorder, mode=mode, observers=[watcher])

    with closing(psycopg.connect(outbox.dsn)) as older:
        async with streaming(in_mode(before), watcher):
            slow = outbox.client.enqueue("slow", tx=older)
            ids = outbox.put(range(10))
            await recorder.got(10)

        ids += outbox.put(range(10, 20))
        async with running(in_mode(after)):
            # A new slot has to wait for the transaction; so has nobody who polls.
            if after == "polling" or before == after:
                await recorder.got(20)
                ids += outbox.put([20])
                await recorder.got(21)

            older.commit()
            await recorder.until(lambda: slow in recorder.ids and len(recorder.ids) > 20)
            ids += outbox.put(["last"])
            await recorder.until(lambda: ids[-1] in recorder.ids)
            if after == "polling":
                await eventually_async(lambda: _no_slot(outbox))

    assert sorted(recorder.ids) == sorted([*ids, slow])


@pytest.mark.parametrize("rounds", [4])
async def test_to_and_fro_under_load(outbox: Outbox, rounds: int) -> None:
    """Each change while jobs keep coming, and a backlog waits."""
    recorder, watcher = Recorder(), Watcher()
    stop = anyio.Event()
    ids: list[int] = []

    async def produce() -> None:
        connection = await psycopg.AsyncConnection.connect(outbox.dsn)
        async with connection:
            n = 0
            while not stop.is_set():
                statement = (
                    "insert into outbox.immediate (payload) "
                    "select convert_to(n::text, 'UTF8') from generate_series(1, 5) as n "
                    "returning id"
                )
                cursor = await connection.execute(statement.encode())
                given = [row[0] for row in await cursor.fetchall()]
                await connection.commit()
                ids.extend(given)
                n += 1

    async with anyio.create_task_group() as group:
        group.start_soon(produce)
        for round_ in range(rounds):
            mode = ("logical", "polling")[round_ % 2]
            subject = consumer(outbox, recorder, mode=mode, observers=[watcher])
            async with streaming(subject, watcher):
                so_far = len(recorder.jobs)
                await recorder.got(so_far + 300)

        stop.set()

    await consumer(outbox, recorder, mode="polling").run(once=True)
    assert sorted(recorder.ids) == sorted(ids)


async def test_polling_after_the_slot_was_lost_goes_on_from_the_checkpoint(outbox: Outbox) -> None:
    recorder, watcher = Recorder(), Watcher()
    async with streaming(consumer(outbox, recorder, observers=[watcher]), watcher):
        before = outbox.put([1, 2])
        await recorder.got(2)
        await outbox.settled()

    outbox.rows(
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots "
        "where database = current_database()"
    )
    gap = outbox.put([3])
    async with streaming(consumer(outbox, recorder, mode="polling", observers=[watcher]), watcher):
        await recorder.until(lambda: gap[0] in recorder.ids)

    assert recorder.ids == [*before, *gap]
    assert "missing" in watcher.of(LogUnavailable)[0].error


async def test_a_span_half_read_is_finished_before_another_begins(outbox: Outbox) -> None:
    """Half way through the first start the mode changes, twice."""
    ids = outbox.put(range(3000))
    recorder = Recorder()
    subjects: list[Any] = []
    for mode, limit in (("logical", 1000), ("polling", 2000), ("logical", 3000)):

        async def handle(jobs: Sequence[Job], limit: int = limit) -> None:
            await recorder(jobs)
            if len(recorder.jobs) >= limit:
                subjects[-1].stop()
                await anyio.sleep(0)  # it hears that before the next batch

        subjects.append(consumer(outbox, handle, mode=mode, batch_size=10))
        await subjects[-1].run()
        assert limit <= len(recorder.ids) <= limit + 100

    assert recorder.ids == ids


async def test_auto_polls_where_there_is_no_log(fresh_server: Any) -> None:
    server = fresh_server(settings={"wal_level": "replica"})
    dsn = server.create_database("plain")
    migrate(dsn)
    outbox = Outbox(dsn, mode="auto")
    recorder, watcher = Recorder(), Watcher()
    async with streaming(consumer(outbox, recorder, observers=[watcher]), watcher):
        ids = outbox.put(range(3))
        await recorder.got(3)

    assert recorder.ids == ids
    assert "wal_level" in watcher.of(LogUnavailable)[0].error
    assert outbox.rows("select mode from consumer") == [("polling",)]


async def test_auto_reads_the_log_where_it_can(outbox: Outbox) -> None:
    recorder, watcher = Recorder(), Watcher()
    async with streaming(consumer(outbox, recorder, mode="auto", observers=[watcher]), watcher):
        assert watcher.of(Streaming)
        outbox.put([1])
        await recorder.got(1)

    assert outbox.rows("select mode from consumer") == [("logical",)]


async def test_auto_lets_the_slot_go_before_the_disk_is_full_and_comes_back(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long transaction keeps the log, and no slot may keep more than so much of it."""
    monkeypatch.setattr(switching, "FIRST_WAIT_SECONDS", 1.0)
    recorder, watcher = Recorder(), Watcher()
    subject = consumer(
        outbox, recorder, mode="auto", max_retained_wal=3 * 1024 * 1024, observers=[watcher]
    )
    async with streaming(subject, watcher):
        with closing(psycopg.connect(outbox.dsn)) as long:
            long.execute("select pg_current_xact_id()")
            ids = outbox.put(range(5))
            await recorder.got(5)
            outbox.rows(
                "create table filler as select repeat('x', 2000) from generate_series(1, 4000)"
            )
            released = await watcher.saw(SlotReleased)
            assert released.retained_bytes > 3 * 1024 * 1024
            await watcher.saw(Polling)
            await eventually_async(lambda: _no_slot(outbox))
            ids += outbox.put(range(5))
            await recorder.got(10)

        # Nothing keeps the log any more: a slot can be had again.
        await watcher.saw(Streaming, 2)
        ids += outbox.put([1])
        await recorder.got(11)

    assert recorder.ids == ids
    assert [event.reason for event in watcher.of(SlotCreated)][1:] != []


async def test_a_slow_backlog_that_outgrows_the_limit_repeats_nothing(outbox: Outbox) -> None:
    """The handler is what keeps the log here: what it has done is not done again."""
    release = anyio.Event()

    async def handle(jobs: Sequence[Job]) -> None:
        await recorder(jobs)
        if len(recorder.jobs) > 50:
            await release.wait()

    recorder, watcher = Recorder(), Watcher()
    subject = consumer(
        outbox,
        handle,
        mode="auto",
        batch_size=10,
        max_retained_wal=3 * 1024 * 1024,
        checkpoint_interval=0.3,
        drain_timeout=60,  # or what it is at when the slot is let go comes again
        observers=[watcher],
    )
    async with streaming(subject, watcher):
        ids = [id_ for n in range(200) for id_ in outbox.put([n])]
        await recorder.got(51)
        write_log(outbox)
        await watcher.saw(SlotReleased)
        release.set()
        await watcher.saw(READING, 2)
        await recorder.until(lambda: set(ids) <= set(recorder.ids))

    assert recorder.ids == ids
