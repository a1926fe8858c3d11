"""Polling: from snapshot to snapshot, with nothing skipped and nobody waited for."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import psycopg
import pytest

from pgcdc_outbox import Job
from pgcdc_outbox.errors import SchemaBehind
from pgcdc_outbox.events import Disconnected, Polling, StandingBy
from pgcdc_outbox.postgres.blocking import Patience
from pgcdc_outbox.postgres.migrate import migrate
from pgcdc_outbox.postgres.partition.maintenance import Maintenance
from pgcdc_outbox.postgres.queries import query
from tests.harness import Outbox, Recorder, Watcher, consumer, running, streaming
from tests.wait import eventually, eventually_async


@pytest.fixture
def mode() -> str:
    return "polling"


async def test_who_began_first_and_commits_last_is_not_skipped(outbox: Outbox) -> None:
    recorder, watcher = Recorder(), Watcher()
    async with streaming(consumer(outbox, recorder, observers=[watcher]), watcher):
        with psycopg.connect(outbox.dsn) as late:
            slow = outbox.client.enqueue("slow", tx=late)
            quick = outbox.put(["quick"])
            # Nor does anybody wait for the one that is open.
            await recorder.got(1)
            more = outbox.put(["more"])
            await recorder.got(2)
            late.commit()

        await recorder.got(3)
        after = outbox.put(["after"])
        await recorder.got(4)

    assert recorder.ids == [*quick, *more, slow, *after]


async def test_a_job_that_was_created_long_ago_is_handled(outbox: Outbox) -> None:
    recorder, watcher = Recorder(), Watcher()
    async with streaming(consumer(outbox, recorder, observers=[watcher]), watcher):
        outbox.rows(
            "insert into immediate (payload, created_at) values ('1', now() - interval '2 hours')"
        )
        await recorder.got(1)


async def test_a_transaction_open_in_another_database_holds_nobody_up(
    server: Any, outbox: Outbox
) -> None:
    recorder, watcher = Recorder(), Watcher()
    async with streaming(consumer(outbox, recorder, observers=[watcher]), watcher):
        with psycopg.connect(server.dsn()) as elsewhere:
            elsewhere.execute("select pg_current_xact_id()")
            outbox.put([1])
            await recorder.got(1)


async def test_rows_that_move_to_a_partition_of_their_own_are_not_skipped(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader comes when they have moved, and waits for what maintenance holds."""
    take_step = Patience.run
    moved, recorder = threading.Event(), Recorder()

    def pause_when_moved(self: Patience, name: str, **parameters: Any) -> Any:
        cursor = take_step(self, name, **parameters)
        if name == "move_rows" and cursor.rowcount:
            moved.set()
            eventually(somebody_waits, timeout=60)

        return cursor

    def somebody_waits() -> bool:
        return bool(
            outbox.value(
                "select count(*) from pg_stat_activity where datname = current_database() "
                "and wait_event_type = 'Lock' and application_name like 'pgcdc-outbox/%%'"
            )
        )

    monkeypatch.setattr(Patience, "run", pause_when_moved)
    ids = outbox.put([1, 2, 3])
    with ThreadPoolExecutor(1) as pool:
        maintenance = pool.submit(Maintenance(outbox.dsn).once)
        await anyio.to_thread.run_sync(moved.wait, 120)
        async with running(consumer(outbox, recorder)):
            await anyio.to_thread.run_sync(maintenance.result, 120)
            ids += outbox.put([4])
            await recorder.until(lambda: 4 in recorder.values)

    assert recorder.ids == ids


async def test_savepoints_belong_to_their_transaction(outbox: Outbox) -> None:
    recorder, watcher = Recorder(), Watcher()
    async with streaming(consumer(outbox, recorder, observers=[watcher]), watcher):
        with psycopg.connect(outbox.dsn) as connection:
            ids = [outbox.client.enqueue(1, tx=connection)]
            with connection.transaction():
                ids.append(outbox.client.enqueue(2, tx=connection))

            with connection.transaction() as savepoint:
                outbox.client.enqueue("never", tx=connection)
                raise psycopg.Rollback(savepoint)

            assert not recorder.ids

        await recorder.got(2)

    assert recorder.ids == ids


async def test_a_stop_and_a_lost_connection_repeat_nothing_on_the_way_through_a_backlog(
    outbox: Outbox,
) -> None:
    ids = outbox.put(range(12_000))
    recorder, watcher = Recorder(), Watcher()

    async def handle(jobs: Sequence[Job]) -> None:
        await recorder(jobs)
        # Not at a number: a batch may go before it is full. So early that the last page
        # cannot have been read.
        if len(recorder.jobs) >= 1000 and not cut:
            cut.append(True)
            outbox.cut_off_reader()

        # What was read before the cut may be handled before anybody notices it.
        if len(recorder.jobs) >= 7000 and watcher.of(Disconnected) and not stopped:
            stopped.append(True)
            subject.stop()
            await anyio.sleep(0)  # it hears that before the next batch

    cut: list[bool] = []
    stopped: list[bool] = []
    subject = consumer(outbox, handle, observers=[watcher], drain_timeout=60)
    await subject.run()
    assert watcher.of(Disconnected)
    assert 7000 <= len(recorder.jobs) < 12_000
    await consumer(outbox, recorder).run(once=True)

    assert recorder.ids == ids


async def test_a_backlog_does_not_make_a_poll_dear(outbox: Outbox) -> None:
    """Nor does a transaction that was open before it: a poll reads what is new."""
    with psycopg.connect(outbox.dsn) as early:
        (open_before,) = early.execute("select pg_current_xact_id()::text").fetchone()
        outbox.rows("insert into immediate (payload) select '1' from generate_series(1, 200000)")
        since = outbox.value("select pg_current_snapshot()::text")
        outbox.put([1])
        target = outbox.value("select pg_current_snapshot()::text")
        _, began_later, running = since.split(":")
        assert open_before in running.split(","), "the open transaction is listed"
        least = -(2**63)
        parameters = {
            "consumer": "default",
            "target": target,
            "limit": 5000,
            "bytes": 4_000_000,
            "small": 800,
        }
        with psycopg.connect(outbox.dsn) as connection:
            for name, rows, extra in (
                ("read_small", 1, {"xid": began_later, "id": least}),
                ("read_later", 1, {"xid": began_later, "id": least}),
                ("read_running", 0, {"xid": "0", "id": 0, "running": [open_before]}),
            ):
                ((plan,),) = connection.execute(
                    f"explain (analyze, buffers, format json) {query(name, 'outbox')}".encode(),
                    {**parameters, **extra},
                ).fetchall()
                top = plan[0]["Plan"]
                assert top["Actual Rows"] == rows
                assert top["Shared Hit Blocks"] + top["Shared Read Blocks"] < 50


async def test_it_needs_no_logical_wal(fresh_server: Any) -> None:
    server = fresh_server(settings={"wal_level": "replica", "max_replication_slots": "0"})
    dsn = server.create_database("plain")
    migrate(dsn)
    outbox = Outbox(dsn, mode="polling")

    def then(jobs: Sequence[Job]) -> list[int]:
        return [job.id for job in jobs if job.topic == "bad"]

    recorder = Recorder(then)
    outbox.put(["x"], topic="bad")
    good = outbox.put(["y"])
    outbox.put(["later"], delay=0.1)
    async with running(consumer(outbox, recorder)):
        await recorder.until(lambda: len(recorder.ids) == 5)

    assert recorder.ids.count(good[0]) == 1
    assert outbox.rows("select reason, attempt from dead_letter") == [("exhausted", 3)]


HOLDER = (
    "from pg_locks as l join pg_stat_activity as a using (pid) "
    "where l.locktype = 'advisory' and l.granted and a.datname = current_database()"
)


async def test_an_instance_that_stands_by_takes_over_when_the_other_is_cut_off(
    outbox: Outbox,
) -> None:
    recorders, watchers = (Recorder(), Recorder()), (Watcher(), Watcher())
    first = consumer(outbox, recorders[0], observers=[watchers[0]])
    second = consumer(outbox, recorders[1], observers=[watchers[1]])
    async with streaming(first, watchers[0]), running(second):
        await watchers[1].saw(StandingBy)
        outbox.put([1])
        await recorders[0].got(1)
        await outbox.settled()
        holder = outbox.value(f"select distinct application_name {HOLDER}")

        async def took_over() -> bool:
            # Whoever asks first gets the lock, so it may be the same one again.
            outbox.rows(
                f"select pg_terminate_backend(a.pid) {HOLDER} and application_name = %s", [holder]
            )
            return bool(watchers[1].of(Polling))

        await eventually_async(took_over, timeout=60)
        outbox.put([2])
        await eventually_async(lambda: _is(len(recorders[0].jobs) + len(recorders[1].jobs) == 2))

    assert [*recorders[0].values, *recorders[1].values] == [1, 2]


async def test_one_that_was_silent_for_too_long_connects_again(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends who holds the lock in a transaction and stands still, and says so."""
    monkeypatch.setattr("pgcdc_outbox.postgres.source.lock.IDLE_SECONDS", 5)
    monkeypatch.setattr("pgcdc_outbox.postgres.source.lock._CHECK_SECONDS", 0.1)
    watcher = Watcher()

    async def block_the_loop(jobs: Sequence[Job]) -> None:
        await recorder(jobs)
        if len(recorder.jobs) == 1:
            eventually(lambda: not holders(), timeout=60)

    # Also while a statement is on its way: it ends by itself, and the transaction stays.
    def holders() -> int:
        return int(
            outbox.value(
                "select count(*) from pg_stat_activity where datname = current_database() "
                "and state <> 'idle' and application_name like 'pgcdc-outbox/%%'"
            )
        )

    recorder = Recorder()
    async with streaming(consumer(outbox, block_the_loop, observers=[watcher]), watcher):
        assert holders()
        outbox.put([1])
        await watcher.saw(Disconnected)
        outbox.put([2])
        await recorder.until(lambda: recorder.values == [1, 2])


async def test_a_column_that_is_missing_stops_it_with_the_reason(outbox: Outbox) -> None:
    outbox.rows("alter table immediate drop column key cascade")
    with pytest.raises(SchemaBehind, match="key"):
        await consumer(outbox, Recorder()).run()


async def test_an_idle_poller_writes_nothing(outbox: Outbox) -> None:
    recorder, watcher = Recorder(), Watcher()
    async with streaming(consumer(outbox, recorder, observers=[watcher]), watcher):
        outbox.put([1])
        await recorder.got(1)
        await outbox.settled()
        written = _versions(outbox)
        began = time.monotonic()
        while time.monotonic() - began < 1:
            await anyio.sleep(0.1)

        assert _versions(outbox) == written


def _versions(outbox: Outbox) -> dict[str, Any]:
    """Every row of the outbox, as who wrote and who locked it; others may write elsewhere."""
    tables = outbox.rows(
        "select tablename from pg_tables where schemaname = %s order by 1", [outbox.schema]
    )
    return {
        table: outbox.rows(f'select ctid::text, xmin::text, xmax::text from "{table}" order by 1')
        for (table,) in tables
    }


async def _is(value: bool) -> bool:
    return value
