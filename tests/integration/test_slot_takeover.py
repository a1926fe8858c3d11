"""A slot that somebody else reads: a dead predecessor is ended, a stranger is not."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import pq
from psycopg.conninfo import make_conninfo

from pgcdc_outbox.events import PredecessorEnded, SlotCreated, StandingBy
from tests.harness import Outbox, Recorder, Watcher, consumer, running, slot_of, streaming
from tests.wait import eventually, eventually_async

ELSEWHERE = "pgcdc-outbox/default/elsewhere-1-abcd"
ROLES = Path(__file__).parents[2] / "sql" / "roles.sql"


@contextmanager
def replicating(outbox: Outbox, name: str) -> Any:
    """A replication connection that is never read: its machine is gone."""
    connection = psycopg.connect(
        outbox.dsn, application_name=name, replication="database", autocommit=True
    )
    try:
        yield connection.pgconn
    finally:
        connection.pgconn.finish()


@contextmanager
def half_open(outbox: Outbox, name: str = ELSEWHERE) -> Any:
    with replicating(outbox, name) as pgconn:
        result = pgconn.exec_(
            f"START_REPLICATION SLOT {slot_of(outbox)} LOGICAL 0/0 "
            "(proto_version '1', publication_names 'pgcdc_outbox')".encode()
        )
        assert result.status == pq.ExecStatus.COPY_BOTH
        yield pgconn


@asynccontextmanager
async def after_a_first_run(outbox: Outbox) -> AsyncIterator[tuple[Recorder, Watcher]]:
    watcher = Watcher()
    async with streaming(consumer(outbox, Recorder(), observers=[watcher]), watcher):
        pass

    yield Recorder(), Watcher()


@pytest.fixture
def writer(outbox: Outbox) -> Any:
    """A transaction that has written and is open."""
    with psycopg.connect(outbox.dsn) as connection:
        connection.execute("create table unfinished ()")
        yield connection
        connection.rollback()


async def test_a_half_open_predecessor_is_ended_after_the_grace(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However long its process takes to end: to stand by would be another matter.
    monkeypatch.setattr("pgcdc_outbox.postgres.source.predecessor._END_SECONDS", 60.0)
    async with after_a_first_run(outbox) as (recorder, watcher):
        with half_open(outbox) as predecessor:
            pid = predecessor.backend_pid
            ids = outbox.put([1])
            subject = consumer(outbox, recorder, observers=[watcher], takeover_grace=0.5)
            async with streaming(subject, watcher):
                await recorder.got(1)

            ended = watcher.of(PredecessorEnded)

    assert len(ended) == 1
    assert ELSEWHERE in ended[0].reader
    assert f"pid {pid}" in ended[0].reader
    assert ended[0].waited_seconds >= 0.5
    assert recorder.ids == ids
    assert not watcher.of(SlotCreated)
    assert not watcher.of(StandingBy), "the lock stays in its hands"


async def test_a_predecessor_that_goes_in_time_is_not_ended(outbox: Outbox) -> None:
    async with after_a_first_run(outbox) as (recorder, watcher):
        subject = consumer(outbox, recorder, observers=[watcher], takeover_grace=60)
        with half_open(outbox) as predecessor:
            async with running(subject):
                await eventually_async(lambda: held(outbox))
                predecessor.finish()
                outbox.put([1])
                await recorder.got(1)

    assert not watcher.of(PredecessorEnded)


async def held(outbox: Outbox) -> bool:
    """Whether a second instance has the lock already."""
    return bool(outbox.value("select count(*) from consumer where epoch = 2"))


async def test_a_reader_that_is_no_consumer_is_left_alone_and_named(outbox: Outbox) -> None:
    async with after_a_first_run(outbox) as (recorder, watcher):
        subject = consumer(outbox, recorder, observers=[watcher], takeover_grace=0)
        with half_open(outbox, "debezium") as stranger:
            async with running(subject):
                told = await watcher.saw(StandingBy)
                assert f"debezium (pid {stranger.backend_pid}" in told.holder
                assert outbox.slot()["active_pid"] == stranger.backend_pid
                stranger.finish()
                outbox.put([1])
                await recorder.got(1)

    assert not watcher.of(PredecessorEnded)


async def test_a_predecessor_that_this_role_may_not_end_is_named(outbox: Outbox) -> None:
    with psycopg.connect(outbox.dsn, autocommit=True) as connection:
        connection.execute(ROLES.read_text().replace(':"schema"', "outbox").encode())
        connection.execute(
            """
            do $$ begin
                create role pgcdc_outbox_test_worker replication in role pgcdc_outbox_consumer;
            exception when duplicate_object then null;
            end $$
            """
        )

    worker = Outbox(make_conninfo(outbox.dsn, options="-c role=pgcdc_outbox_test_worker"))
    async with after_a_first_run(outbox) as (recorder, watcher):
        with half_open(outbox) as predecessor:
            subject = consumer(worker, recorder, observers=[watcher], takeover_grace=0)
            async with running(subject):
                told = await watcher.saw(StandingBy)
                assert "which this role may not end" in told.holder
                assert f"pid {predecessor.backend_pid}" in told.holder
                predecessor.finish()
                outbox.put([1])
                await recorder.got(1)


async def test_the_half_made_slot_of_a_dead_predecessor_is_cleared_away(
    outbox: Outbox, writer: psycopg.Connection[Any]
) -> None:
    """It waits for an open transaction, and does not notice that its client is gone."""
    recorder, watcher = Recorder(), Watcher()
    with replicating(outbox, ELSEWHERE) as predecessor:
        predecessor.send_query(
            f"CREATE_REPLICATION_SLOT {slot_of(outbox)} LOGICAL pgoutput NOEXPORT_SNAPSHOT".encode()
        )
        eventually(lambda: outbox.slot()["active_pid"] == predecessor.backend_pid)
        subject = consumer(outbox, recorder, observers=[watcher], takeover_grace=0.2)
        async with running(subject):
            await watcher.saw(PredecessorEnded)
            writer.rollback()
            outbox.put([1])
            await recorder.got(1)
