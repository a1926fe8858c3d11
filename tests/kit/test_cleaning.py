"""Emptying the outbox between tests, and saying who is in the way."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from pgcdc_outbox.testing import NotClean, Outbox, cleaning
from tests.harness import Outbox as Harnessed
from tests.harness import Recorder, Watcher, consumer, streaming

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version


@contextmanager
def impatient() -> Iterator[None]:
    """Do not wait long for what is in the way. What leaves has all the time that it needs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cleaning, "_PATIENCE_SECONDS", 0.2)
        yield


def rows(outbox: Outbox, statement: str) -> list:
    with psycopg.connect(outbox.dsn) as connection:
        return connection.execute(statement.encode()).fetchall()


@pytest.mark.parametrize("mode", ["logical", "polling"])
def test_nothing_is_left(outbox: Outbox, mode: str) -> None:
    outbox.client.enqueue(1)
    outbox.client.enqueue(2, delay=60)
    outbox.drain(lambda jobs: [job.id for job in jobs], mode=mode)
    outbox.clean()
    tables = ("immediate", "scheduled", "failed", "consumer", "checkpoint", "trace")
    assert [rows(outbox, f"select * from outbox.{table}") for table in tables] == [[]] * 6
    assert (
        rows(outbox, "select 1 from pg_replication_slots where database = current_database()") == []
    )
    assert len(rows(outbox, "select 1 from outbox.migration")) == 3
    assert outbox.client.enqueue(3) == 1
    assert outbox.drain(lambda jobs: None, mode=mode).ids == [1]


def test_a_transaction_that_is_open_is_named(outbox: Outbox) -> None:
    with psycopg.connect(outbox.dsn, application_name="the shop") as connection:
        outbox.client.enqueue(1, tx=connection)
        with (
            impatient(),
            pytest.raises(NotClean, match=r"left a transaction open: pid \d+ \(the shop, idle in"),
        ):
            outbox.clean()

    outbox.clean()


async def test_a_consumer_that_runs_is_named(outbox: Outbox) -> None:
    watcher = Watcher()
    subject = consumer(Harnessed(outbox.dsn), Recorder(), observers=[watcher], mode="polling")
    async with streaming(subject, watcher):
        with (
            impatient(),
            pytest.raises(NotClean, match=r"left a consumer running.*pgcdc-outbox/default"),
        ):
            outbox.clean()

    outbox.clean()
