"""A job shares the fate of the transaction it was enqueued in, whatever handle was given."""

from datetime import UTC, datetime, timedelta

import pytest

from pgcdc_outbox.job import NewJob
from tests.contract.handles import Handle, Sale, Table

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version

BUSINESS = "insert into sale (id, note) values (1, 'a')"
KINDS = [
    NewJob(payload={"a": [1, None]}, key="k", headers={"h": "\u20ac"}),
    NewJob(payload=b"\0\xff", topic="raw"),
    NewJob(payload=None, delay=3600),
    NewJob(payload="later", run_at=datetime(2100, 1, 1, tzinfo=UTC)),
]


async def enqueue_all(handle: Handle) -> list[int]:
    """Each kind of job, one by one and all at once."""
    ids = [
        await handle.enqueue(
            job.payload,
            topic=job.topic,
            key=job.key,
            headers=job.headers,
            run_at=job.run_at,
            delay=job.delay,
        )
        for job in KINDS
    ]
    return ids + await handle.enqueue_many(KINDS)


async def test_committed_together(handle: Handle, table: Table):
    await handle.execute(BUSINESS)
    ids = await enqueue_all(handle)

    assert table.ids() == []
    await handle.commit()
    assert ids == table.ids() == sorted(ids)
    assert table.sales() == 1


async def test_every_column_arrives(handle: Handle, table: Table):
    before = table.clock()
    await enqueue_all(handle)
    after = table.clock()
    await handle.commit()

    now = table.rows()
    assert [row["payload"] for row in now] == [b'{"a":[1,null]}', b"\0\xff"] * 2
    assert [row["topic"] for row in now] == ["default", "raw"] * 2
    assert [row["key"] for row in now] == ["k", None] * 2
    assert [row["headers"] for row in now] == [{"h": "\u20ac"}, None] * 2
    assert [row["content_type"] for row in now] == [None, "application/octet-stream"] * 2
    assert all(row["xid"] == now[0]["xid"] is not None for row in now)
    later = table.rows("scheduled")
    assert [row["payload"] for row in later] == [b"null", b'"later"'] * 2
    for row in (later[0], later[2]):
        assert before <= row["due_at"] - timedelta(hours=1) <= after

    assert [row["due_at"] for row in (later[1], later[3])] == [KINDS[3].run_at] * 2


async def test_rolled_back_together(handle: Handle, table: Table):
    await handle.execute(BUSINESS)
    await enqueue_all(handle)
    await handle.rollback()

    assert table.ids() == []
    assert table.sales() == 0


async def test_a_savepoint_takes_its_jobs_with_it(handle: Handle, table: Table):
    kept = await handle.enqueue(1)
    async with handle.savepoint():
        await enqueue_all(handle)

    after = await handle.enqueue(2)
    await handle.execute(BUSINESS)
    await handle.commit()

    assert table.ids() == [kept, after]
    assert table.sales() == 1


async def test_a_constraint_that_fails_later_takes_the_job_with_it(handle: Handle, table: Table):
    await handle.execute(BUSINESS)
    await enqueue_all(handle)

    with pytest.raises(Exception, match="sale_pkey"):
        await handle.execute(BUSINESS)

    await handle.rollback()
    assert table.ids() == []


async def test_unflushed_objects_share_the_fate(handle: Handle, table: Table):
    if handle.add is None:
        pytest.skip("it holds no objects")

    handle.add(Sale(id=1, note="unflushed"))
    first = await handle.enqueue("with it")
    await handle.commit()
    assert table.ids() == [first]
    assert table.sales() == 1

    handle.add(Sale(id=2, note=None))
    # Whether it flushes for the job already or for the commit is its own affair.
    with pytest.raises(Exception, match="not-null"):
        await enqueue_and_commit(handle)

    await handle.rollback()
    assert table.ids() == [first]
    assert table.sales() == 1


async def enqueue_and_commit(handle: Handle) -> None:
    await handle.enqueue("with what cannot be stored")
    await handle.commit()


async def test_an_aborted_transaction_stays_aborted(handle: Handle, table: Table):
    await handle.execute(BUSINESS)
    with pytest.raises(Exception, match="sale_pkey"):
        await handle.execute(BUSINESS)

    with pytest.raises(Exception, match="transaction is aborted"):
        await handle.enqueue(1)

    await handle.rollback()
    assert table.ids() == []


async def test_what_is_refused_leaves_the_transaction_usable(handle: Handle, table: Table):
    await handle.execute(BUSINESS)
    with pytest.raises(ValueError, match="delay"):
        await handle.enqueue(1, delay=-1)

    with pytest.raises(ValueError, match=r"jobs\[1\].topic"):
        await handle.enqueue_many([NewJob(payload=1), NewJob(payload=1, topic="")])

    await handle.commit()
    assert table.ids() == []
    assert table.sales() == 1


async def test_nothing_to_enqueue(handle: Handle):
    assert await handle.enqueue_many([]) == []
