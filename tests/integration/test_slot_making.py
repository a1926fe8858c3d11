"""Making a slot waits for whoever writes: that is told, and a stop does not wait for it."""

import time
from typing import Any

import anyio
import psycopg
import pytest

from pgcdc_outbox.errors import CheckpointForeign, SettingsError
from pgcdc_outbox.events import Disconnected, SlotCreated, Streaming
from pgcdc_outbox.postgres.migrate import migrate
from pgcdc_outbox.postgres.source import stream
from tests.harness import Outbox, Recorder, Watcher, consumer, running, streaming
from tests.wait import eventually_async

SLOTS = "select count(*) from pg_replication_slots where database = current_database()"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        stream, "_OPTIONS", stream._OPTIONS.replace("lock_timeout=30s", "lock_timeout=500ms")
    )


@pytest.mark.usefixtures("impatient")
async def test_whom_a_new_slot_waits_for_is_named(fresh_server: Any) -> None:
    server = fresh_server(settings={"max_prepared_transactions": "2"})
    dsn = server.create_database("waiting")
    elsewhere = server.create_database("elsewhere")
    migrate(dsn)
    outbox = Outbox(dsn)
    ids = outbox.put([1])
    recorder, watcher = Recorder(), Watcher()
    with psycopg.connect(elsewhere) as writer:
        writer.execute("create table unfinished ()")
        with psycopg.connect(dsn) as preparing:
            preparing.execute("create table prepared ()")
            preparing.execute("prepare transaction 'two phases'")
            preparing.rollback()

        async with running(consumer(outbox, recorder, observers=[watcher])):
            told = await watcher.saw(Disconnected)
            assert f"waits for pid {writer.info.backend_pid} (postgres in elsewhere" in told.error
            assert "a prepared transaction (postgres in waiting, 'two phases'" in told.error
            assert "End those" in told.hint
            # What was given up is not left behind.
            writer.rollback()
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute("rollback prepared 'two phases'")

            await recorder.got(1)

    assert recorder.ids == ids


async def test_a_stop_while_a_slot_is_made_is_heeded_and_leaves_nothing(outbox: Outbox) -> None:
    """The server's process would wait on, with a slot that keeps the log."""

    async def being_made() -> bool:
        return bool(outbox.value(f"{SLOTS} and active"))

    async def gone() -> bool:
        return not outbox.value(SLOTS)

    with psycopg.connect(outbox.dsn) as writer:
        writer.execute("create table unfinished ()")
        async with running(consumer(outbox, Recorder())):
            await eventually_async(being_made)
            asked = time.monotonic()

        # Both sooner than the server would give up by itself, after thirty seconds.
        assert time.monotonic() - asked < 20
        await eventually_async(gone, timeout=25 - (time.monotonic() - asked))
        writer.rollback()


async def test_a_cancellation_while_a_slot_is_made_leaves_nothing(outbox: Outbox) -> None:
    async def being_made() -> bool:
        return bool(outbox.value(f"{SLOTS} and active"))

    async def gone() -> bool:
        return not outbox.value(SLOTS)

    with psycopg.connect(outbox.dsn) as writer:
        writer.execute("create table unfinished ()")
        async with anyio.create_task_group() as group:
            group.start_soon(consumer(outbox, Recorder()).run)
            await eventually_async(being_made)
            group.cancel_scope.cancel()

        await eventually_async(gone, timeout=20)
        writer.rollback()


async def test_a_publication_that_changes_while_a_slot_is_made_is_noticed(outbox: Outbox) -> None:
    """A transaction of that time may have been decoded by either."""

    async def being_made() -> bool:
        return bool(outbox.value(f"{SLOTS} and active"))

    ids = outbox.put([1])
    recorder, watcher = Recorder(), Watcher()
    with psycopg.connect(outbox.dsn) as writer:
        writer.execute("create table unfinished ()")
        async with running(consumer(outbox, recorder, observers=[watcher])):
            await eventually_async(being_made)
            outbox.rows("alter publication pgcdc_outbox drop table immediate")
            outbox.rows("alter publication pgcdc_outbox add table immediate")
            writer.rollback()
            await recorder.got(1)

    told = [
        type(event) for event in watcher.events if isinstance(event, Disconnected | SlotCreated)
    ]
    assert told == [Disconnected, SlotCreated]
    assert "publication pgcdc_outbox was changed" in watcher.of(Disconnected)[0].error
    assert recorder.ids == ids


async def test_jobs_of_another_cluster_are_refused(outbox: Outbox) -> None:
    """After a restore nobody knows what was handled; transaction ids from there mean nothing."""
    outbox.put([1])
    outbox.rows("update immediate set xid = '40000000000'")
    with pytest.raises(CheckpointForeign, match="another cluster") as caught, anyio.fail_after(60):
        await consumer(outbox, Recorder()).run()

    assert "--accept-new-system restored" in caught.value.hint


async def test_a_slot_that_follows_a_failover(outbox: Outbox) -> None:
    watcher = Watcher()
    following = consumer(outbox, Recorder(), observers=[watcher], failover=True)
    if outbox.value("select current_setting('server_version_num')::int") < 170000:
        with pytest.raises(SettingsError, match=r"failover: PostgreSQL 1\d "), anyio.fail_after(60):
            await following.run()

        return

    async with streaming(following, watcher):
        assert outbox.slot()["failover"] is True

    # What somebody else asked for is left as it is.
    async with streaming(consumer(outbox, Recorder(), observers=[watcher]), watcher):
        assert outbox.slot()["failover"] is True

    assert len(watcher.of(SlotCreated)) == 1


async def test_a_slot_that_is_there_learns_to_follow_a_failover(outbox: Outbox) -> None:
    if outbox.value("select current_setting('server_version_num')::int") < 170000:
        pytest.skip("needs PostgreSQL 17")

    recorder, watcher = Recorder(), Watcher()
    async with streaming(consumer(outbox, recorder, observers=[watcher]), watcher):
        assert outbox.slot()["failover"] is False

    ids = outbox.put([1])
    following = consumer(outbox, recorder, observers=[watcher], failover=True)
    async with streaming(following, watcher):
        await recorder.got(1)
        assert outbox.slot()["failover"] is True

    assert recorder.ids == ids
    assert len(watcher.of(SlotCreated)) == 1
    assert len(watcher.of(Streaming)) == 2
