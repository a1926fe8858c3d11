"""Enqueueing through one psycopg cursor again and again: it stays the caller's."""

import asyncio
import sys
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from pgcdc_outbox.postgres.producer.client import AsyncClient, Client
from tests.contract.handles import Table

# So many that threads do meet within a call.
MANY = 3_000
FEW = 200


def test_its_rows_are_read_on_while_jobs_go_through_it(outbox: str, table: Table):
    client = Client()
    with psycopg.connect(outbox) as connection, connection.cursor() as cursor:
        cursor.execute("select generate_series(1, 20)")
        for (number,) in cursor:
            client.enqueue(number, tx=cursor)

        assert cursor.rowcount == 20

    assert [job.json() for job in table.jobs()] == list(range(1, 21))


def test_the_encoding_of_the_connection_may_change_between_two_jobs(outbox: str, table: Table):
    client = Client()
    with psycopg.connect(outbox) as connection, connection.cursor() as cursor:
        for encoding in ("utf8", "latin1", "utf8"):
            connection.execute(f"set client_encoding to {encoding}")
            client.enqueue(encoding, topic="é", key="ü", tx=cursor)

    assert [(job.topic, job.key) for job in table.jobs()] == 3 * [("é", "ü")]


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns between any two steps."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("hasty")
def test_threads_that_share_a_cursor_get_the_ids_of_their_own_jobs(outbox: str, table: Table):
    client = Client()
    with psycopg.connect(outbox) as connection, connection.cursor() as cursor:
        with ThreadPoolExecutor(4) as threads:
            ids = list(threads.map(lambda number: client.enqueue(number, tx=cursor), range(MANY)))

        connection.commit()

    assert {job.id: job.json() for job in table.jobs()} == dict(zip(ids, range(MANY), strict=True))


async def test_tasks_that_share_a_cursor_get_the_ids_of_their_own_jobs(outbox: str, table: Table):
    client = AsyncClient()
    async with await psycopg.AsyncConnection.connect(outbox) as connection:
        cursor = connection.cursor()
        ids = await asyncio.gather(*(client.enqueue(n, tx=cursor) for n in range(FEW)))

    assert {job.id: job.json() for job in table.jobs()} == dict(zip(ids, range(FEW), strict=True))


@pytest.mark.usefixtures("table")
def test_nothing_of_it_outlives_it(outbox: str):
    connection = psycopg.connect(outbox)
    cursor = connection.cursor()
    Client().enqueue(1, tx=cursor)
    alive = weakref.ref(connection)
    connection.close()

    del cursor, connection

    assert alive() is None
