"""A publication that is altered while it is read costs no job."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from typing import cast

import anyio
import anyio.to_thread
import psycopg
import pytest

from pgcdc_outbox import Consumer
from pgcdc_outbox.errors import PublicationChanged, PublicationMissing
from pgcdc_outbox.events import CheckpointSaved, Disconnected, SlotCreated
from pgcdc_outbox.postgres.session import Session
from pgcdc_outbox.postgres.source.checkpoint import NOTHING_SEEN
from pgcdc_outbox.postgres.source.leadership import Leadership, lead
from pgcdc_outbox.postgres.source.lock import Lock
from pgcdc_outbox.postgres.source.publication import prove_unchanged, require_publication
from tests.harness import Outbox, Recorder, Watcher, consumer, streaming

CREATE = (
    "create publication pgcdc_outbox for table immediate "
    "with (publish = 'insert', publish_via_partition_root = true)"
)
RIGHT = "alter publication pgcdc_outbox set (publish = 'insert', publish_via_partition_root = true)"
TABLE = "alter publication pgcdc_outbox set table immediate"

# What stops the rows, or changes them, and what mends it.
ALTERED = [
    ("alter publication pgcdc_outbox drop table immediate", TABLE),
    ("alter publication pgcdc_outbox set (publish = 'update')", RIGHT),
    (f"{TABLE}; alter publication pgcdc_outbox set (publish_via_partition_root = false)", RIGHT),
    ("drop publication pgcdc_outbox", CREATE),
]
ALTERED_SINCE_15 = [
    ("alter publication pgcdc_outbox set table immediate where (topic <> 'default')", TABLE),
    ("alter publication pgcdc_outbox set table immediate (id, created_at, topic)", TABLE),
]


def supported(outbox: Outbox) -> list[tuple[str, str]]:
    version = outbox.value("select current_setting('server_version_num')::int")
    return ALTERED if version < 150000 else [*ALTERED, *ALTERED_SINCE_15]


@pytest.mark.parametrize("which", range(len(ALTERED) + len(ALTERED_SINCE_15)))
async def test_an_alteration_that_is_taken_back_is_noticed(outbox: Outbox, which: int) -> None:
    """When anybody looks, all is well again: only the rows in between are missing."""
    choices = supported(outbox)
    if which >= len(choices):
        pytest.skip("needs PostgreSQL 15")

    alter, mend = choices[which]
    recorder, watcher = Recorder(), Watcher()
    async with streaming(consumer(outbox, recorder, observers=[watcher]), watcher):
        outbox.put([1])
        await recorder.got(1)
        await outbox.settled()
        with psycopg.connect(outbox.dsn, autocommit=True) as connection:
            connection.execute("set search_path to outbox")
            for statement in alter.split(";"):
                connection.execute(statement.encode())

            connection.execute("select enqueue('default', '2')")
            connection.execute(mend.encode())

        outbox.put([3])
        await recorder.until(lambda: {1, 2, 3} <= set(recorder.values))
        await outbox.settled()

    created = watcher.of(SlotCreated)
    assert len(created) == 2
    assert "publication" in created[1].reason
    assert recorder.values.count(1) == 1


@pytest.mark.parametrize("which", range(len(ALTERED) + len(ALTERED_SINCE_15)))
async def test_an_alteration_while_away_is_noticed(outbox: Outbox, which: int) -> None:
    choices = supported(outbox)
    if which >= len(choices):
        pytest.skip("needs PostgreSQL 15")

    alter, mend = choices[which]
    recorder, watcher = Recorder(), Watcher()
    subject = consumer(outbox, recorder, observers=[watcher])
    async with streaming(subject, watcher):
        outbox.put([1])
        await recorder.got(1)

    for statement in alter.split(";"):
        outbox.rows(statement)

    outbox.put([2])
    outbox.rows(mend)
    async with streaming(subject, watcher):
        outbox.put([3])
        await recorder.until(lambda: {1, 2, 3} <= set(recorder.values))

    assert watcher.of(SlotCreated)[1].reason == "publication pgcdc_outbox was changed"


@pytest.mark.parametrize("which", range(len(ALTERED) + len(ALTERED_SINCE_15)))
async def test_an_alteration_that_stays_ends_the_consumer_and_the_hint_mends_it(
    outbox: Outbox, which: int
) -> None:
    choices = supported(outbox)
    if which >= len(choices):
        pytest.skip("needs PostgreSQL 15")

    recorder, watcher = Recorder(), Watcher()
    subject = consumer(outbox, recorder, observers=[watcher])

    async def alter() -> None:
        async with streaming(subject, watcher):
            outbox.put([1])
            await recorder.got(1)
            for statement in choices[which][0].split(";"):
                outbox.rows(statement)

            outbox.put([2])
            await anyio.sleep_forever()

    with pytest.raises(PublicationMissing, match="publication pgcdc_outbox") as caught:
        await alter()

    assert watcher.of(Disconnected)
    with psycopg.connect(outbox.dsn, autocommit=True) as connection:
        for statement in filter(None, caught.value.hint.split(";")):
            connection.execute(statement.encode())

    async with streaming(subject, watcher):
        outbox.put([3])
        await recorder.until(lambda: {1, 2, 3} <= set(recorder.values))


class Supervised:
    """A consumer that is started again when it ends because it has found it wrong."""

    def __init__(self, subject: Consumer) -> None:
        self._subject = subject
        self._stopped = False

    async def run(self) -> None:
        while not self._stopped:
            with suppress(PublicationMissing):
                await self._subject.run()

    def stop(self) -> None:
        self._stopped = True
        self._subject.stop()


async def test_nothing_is_lost_while_jobs_flow_and_the_publication_comes_and_goes(
    outbox: Outbox,
) -> None:
    recorder, watcher = Recorder(), Watcher()
    subject = consumer(outbox, recorder, observers=[watcher], max_slot_losses=100)
    ids: list[int] = []

    def produce() -> None:
        for round_ in range(6):
            ids.extend(outbox.put(range(50)))
            outbox.rows("alter publication pgcdc_outbox drop table immediate")
            ids.extend(outbox.put(range(5)))
            outbox.rows("alter publication pgcdc_outbox add table immediate")
            # Let it come round now and then, so that it is not one gap after all.
            if round_ % 2:
                there = set(ids)
                anyio.from_thread.run(
                    recorder.until, lambda there=there: there <= set(recorder.ids), 120.0
                )

    async with streaming(cast("Consumer", Supervised(subject)), watcher):
        await anyio.to_thread.run_sync(produce)
        await recorder.until(lambda: set(ids) <= set(recorder.ids), timeout=120)

    assert set(recorder.ids) == set(ids)
    assert len(watcher.of(SlotCreated)) >= 2


async def test_a_stop_right_after_an_alteration_does_not_save_over_the_gap(outbox: Outbox) -> None:
    """The last position is saved at the stop, and needs the proof as much as any other."""
    recorder, watcher = Recorder(), Watcher()
    # Nothing but the stop looks.
    subject = consumer(outbox, recorder, observers=[watcher], checkpoint_interval=3600)
    async with streaming(subject, watcher):
        outbox.put([1])
        await recorder.got(1)
        outbox.rows(ALTERED[0][0])
        outbox.put([2])
        outbox.rows(ALTERED[0][1])
        outbox.put([3])
        await recorder.until(lambda: 3 in recorder.values)

    async with streaming(subject, watcher):
        await recorder.until(lambda: 2 in recorder.values)


@asynccontextmanager
async def leading(outbox: Outbox) -> AsyncIterator[Leadership]:
    with closing(Session(outbox.dsn, name="pgcdc-outbox/test", reconnects=False)) as session:
        lock = Lock(session, in_transaction=False)
        yield await lead(session, lock, consumer="c", schema=outbox.schema, instance="i")


@pytest.mark.parametrize("savepoint", [False, True])
async def test_a_change_that_nobody_sees_yet_keeps_the_proof_waiting(
    outbox: Outbox, savepoint: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its commit may be in the log already, where the server decodes by it."""
    # A statement that is not answered in time would cost the connection, which is the lock's.
    monkeypatch.setattr("pgcdc_outbox.postgres.session._GRACE_SECONDS", 60.0)
    async with leading(outbox) as leadership:
        before = await require_publication(leadership, since=NOTHING_SEEN)
        assert not before.unsettled
        for verdict in ("rollback", "commit"):
            with psycopg.connect(outbox.dsn) as connection:
                connection.execute("set search_path to outbox")
                if savepoint:
                    connection.execute("savepoint s")

                connection.execute(ALTERED[0][0].encode())
                now = await require_publication(leadership, since=NOTHING_SEEN)
                assert now.unsettled
                assert now.state == before.state
                with anyio.move_on_after(0.5) as waiting:
                    await prove_unchanged(leadership, before, since=NOTHING_SEEN)

                assert waiting.cancelled_caught
                connection.execute(verdict.encode())

            if verdict == "rollback":
                with anyio.fail_after(60):
                    await prove_unchanged(leadership, before, since=NOTHING_SEEN)
            else:
                with pytest.raises(PublicationChanged):
                    await prove_unchanged(leadership, before, since=NOTHING_SEEN)


async def test_a_snapshot_tells_whether_the_publication_was_changed_since(outbox: Outbox) -> None:
    async with leading(outbox) as leadership:
        since = outbox.value("select pg_current_snapshot()::text")
        assert not (await require_publication(leadership, since=since)).changed
        with psycopg.connect(outbox.dsn) as connection:
            connection.execute("set search_path to outbox")
            # By a subtransaction, of a transaction that is open at the snapshot.
            connection.execute("select pg_current_xact_id()")
            connection.execute("savepoint s")
            connection.execute(RIGHT.encode())
            outbox.rows("create table another ()")
            since = outbox.value("select pg_current_snapshot()::text")

        assert (await require_publication(leadership, since=since)).changed
        since = outbox.value("select pg_current_snapshot()::text")
        assert not (await require_publication(leadership, since=since)).changed


async def test_a_list_of_columns_that_lacks_none_is_right(outbox: Outbox) -> None:
    if outbox.value("select current_setting('server_version_num')::int") < 150000:
        pytest.skip("needs PostgreSQL 15")

    async with leading(outbox) as leadership:
        # As migrate makes it: without xid.
        await require_publication(leadership, since=NOTHING_SEEN)
        outbox.rows(ALTERED_SINCE_15[1][0])
        with pytest.raises(PublicationMissing, match="every column"):
            await require_publication(leadership, since=NOTHING_SEEN)


async def test_an_idle_consumer_keeps_its_slot(outbox: Outbox) -> None:
    """Transactions of others, and publications of others, change nothing."""
    recorder, watcher = Recorder(), Watcher()
    subject = consumer(outbox, recorder, observers=[watcher])
    other = f"other_{secrets.token_hex(2)}"
    async with streaming(subject, watcher):
        outbox.rows(f"create publication {other} for table immediate")
        outbox.rows("create table t as select 1 as a")
        before = len(watcher.of(CheckpointSaved))
        outbox.put([1])
        await watcher.saw(CheckpointSaved, before + 1)

    assert len(watcher.of(SlotCreated)) == 1
    assert not watcher.of(Disconnected)
