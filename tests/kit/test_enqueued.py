"""What was enqueued, as `jobs` and `assert_enqueued` see it: also before the commit."""

import asyncpg
import psycopg
import pytest
import sqlalchemy as sa
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from pgcdc_outbox import AsyncClient, Client, NewJob
from pgcdc_outbox.errors import JobInvalid, TransactionMissing
from pgcdc_outbox.postgres.migrate import migrate
from pgcdc_outbox.testing import Outbox

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version

ODD = 'odd "name:x%s'


def test_a_job_as_it_was_enqueued(outbox: Outbox) -> None:
    outbox.client.enqueue({"order": 1}, topic="order.paid", key="o1", headers={"a": "b"})
    outbox.client.enqueue(b"\x00\xff", topic="raw")
    first, second = outbox.jobs()
    assert (first.id, first.topic, first.key, first.headers) == (1, "order.paid", "o1", {"a": "b"})
    assert (first.json(), first.run_at, first.attempt) == ({"order": 1}, None, 1)
    assert (second.payload, second.content_type) == (b"\x00\xff", "application/octet-stream")
    assert [job.id for job in outbox.jobs("raw")] == [2]
    assert "b'{\"order\":1}'" in repr(first)


def test_executed_failed_and_dead_jobs_are_still_those_that_were_enqueued(outbox: Outbox) -> None:
    outbox.client.enqueue_many([NewJob(payload=number) for number in range(3)])

    def handle(jobs):
        return [job.id for job in jobs if job.id == 2 and job.attempt == 1]

    enqueued = outbox.jobs()
    outbox.drain(handle)
    outbox.travel(outbox.failed()[0].due_at - outbox.now())
    outbox.drain(handle)
    assert outbox.jobs() == enqueued
    assert [job.id for job in enqueued] == [1, 2, 3]


def test_in_a_transaction_of_psycopg(outbox: Outbox) -> None:
    with psycopg.connect(outbox.dsn, row_factory=dict_row) as connection:
        Client(schema=outbox.schema).enqueue({"order": 1}, tx=connection)
        outbox.assert_enqueued(payload={"order": 1}, tx=connection)
        outbox.assert_enqueued(payload={"order": 1}, tx=connection.cursor())
        outbox.assert_not_enqueued()
        connection.rollback()

    outbox.assert_not_enqueued()


def test_in_a_transaction_of_sqlalchemy(outbox: Outbox) -> None:
    engine = sa.create_engine("postgresql+psycopg://", connect_args=conninfo_to_dict(outbox.dsn))
    with Session(engine) as session:
        outbox.client.enqueue({"order": 1}, topic="paid", tx=session)
        outbox.assert_enqueued(topic="paid", tx=session)
        outbox.assert_not_enqueued(topic="sent", tx=session)
        outbox.assert_not_enqueued(topic="paid")

    engine.dispose()


async def test_in_transactions_that_are_awaited(outbox: Outbox) -> None:
    client = AsyncClient()
    async with await psycopg.AsyncConnection.connect(outbox.dsn) as connection:
        await client.enqueue(1, topic="t", tx=connection)
        await outbox.aassert_enqueued(topic="t", tx=connection, count=1)
        await connection.rollback()

    given = conninfo_to_dict(outbox.dsn)
    plain = await asyncpg.connect(
        host=given["host"],
        port=int(given["port"]),
        user=given["user"],
        database=given["dbname"],
        password=given.get("password"),
    )
    async with plain.transaction():
        await client.enqueue(1, topic="t", tx=plain)
        await outbox.aassert_enqueued(topic="t", tx=plain)
        assert await outbox.ajobs() == []

    await plain.close()
    engine = create_async_engine("postgresql+psycopg://", connect_args=given)
    async with AsyncSession(engine) as session:
        await client.enqueue(2, topic="u", tx=session)
        assert [job.json() for job in await outbox.ajobs("u", tx=session)] == [2]

    await engine.dispose()


def test_a_tx_that_enqueue_would_refuse_is_refused(outbox: Outbox) -> None:
    with pytest.raises(JobInvalid, match=r"tx: a builtins\.object is given"):
        outbox.jobs(tx=object())

    with (
        psycopg.connect(outbox.dsn, autocommit=True) as connection,
        pytest.raises(TransactionMissing, match="autocommit mode"),
    ):
        outbox.jobs(tx=connection)


async def test_a_schema_with_any_name(database: str) -> None:
    migrate(database, schema=ODD)
    with Outbox(database, schema=ODD) as outbox:
        outbox.clean()
        number = outbox.client.enqueue("x")
        assert [job.id for job in outbox.jobs()] == [number]
        engine = sa.create_engine("postgresql+psycopg://", connect_args=conninfo_to_dict(database))
        with Session(engine) as session:
            assert [job.id for job in outbox.jobs(tx=session)] == [number]

        engine.dispose()
        with psycopg.connect(database) as connection:
            assert [job.id for job in outbox.jobs(tx=connection)] == [number]

        assert (await outbox.adrain(lambda jobs: None, mode="logical")).ids == [number]
        outbox.clean()
        assert outbox.jobs() == []
        assert outbox.client.enqueue("x") == 1


def test_the_right_number_of_them(outbox: Outbox) -> None:
    outbox.client.enqueue_many([NewJob(payload={"n": number}, topic="t") for number in range(2)])
    assert [job.json()["n"] for job in outbox.assert_enqueued(topic="t", count=2)] == [0, 1]
    with pytest.raises(AssertionError, match=r"2 jobs were enqueued with topic='t', expected 1"):
        outbox.assert_enqueued(topic="t", count=1)

    with pytest.raises(AssertionError, match=r"1 job was enqueued with payload=\{'n': 1\}, exp"):
        outbox.assert_not_enqueued(payload={"n": 1})

    outbox.assert_enqueued(topic="u", count=0)


def test_a_failure_shows_what_is_there_instead(outbox: Outbox) -> None:
    with pytest.raises(AssertionError) as empty:
        outbox.assert_enqueued(topic="order.paid")

    assert str(empty.value) == (
        "no job was enqueued with topic='order.paid'\n"
        "There are no jobs at all. (Those of a transaction that is still open are only seen "
        "with tx=, from inside it.)"
    )
    outbox.client.enqueue({"order": 42}, topic="order.sent")
    outbox.client.enqueue({"order": 43, "lines": [{"sku": "a"}]}, topic="order.paid", key="k")
    with pytest.raises(AssertionError) as told:
        outbox.assert_enqueued(
            topic="order.paid", key="l", payload={"order": 42, "total": 1, "lines": [{"sku": "b"}]}
        )

    assert str(told.value).splitlines()[1:] == [
        "2 jobs were enqueued; the nearest first:",
        "  job 2, topic 'order.paid':",
        "    key: expected 'l', found 'k'",
        "    payload['order']: expected 42, found 43",
        "    payload['total']: expected 1, and the key is missing",
        "    payload['lines'][0]['sku']: expected 'b', found 'a'",
        "  job 1, topic 'order.sent':",
        "    topic: expected 'order.paid', found 'order.sent'",
        "    key: expected 'l', found None",
        "    payload['total']: expected 1, and the key is missing",
        "    payload['lines']: expected [{'sku': 'b'}], and the key is missing",
    ]
