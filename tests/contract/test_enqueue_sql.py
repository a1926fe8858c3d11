"""Producers without the client: plain SQL, the function, a trigger; and names that need quotes."""

from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from pgcdc_outbox.job import NewJob
from pgcdc_outbox.postgres.migrate import migrate
from pgcdc_outbox.postgres.producer.client import Client
from tests.contract.handles import HANDLES, Table, engine

PRODUCERS = Path(__file__).parents[2] / "sql" / "producers"
NAMES = ['We"ird', "50% of :it", "it's", "back\\slash\\:x", "%(topic)s", "x" * 63, "Ž" * 31]


@pytest.mark.parametrize("name", HANDLES)
async def test_names_that_need_quotes(name: str, outbox: str):
    schemas = [*NAMES, "outbox"] if name == "psycopg-connection" else ['We"ird %s:x', "outbox"]
    for schema in schemas:
        migrate(outbox, schema=schema)

    expected = {}
    for schema in schemas:
        async with HANDLES[name](outbox) as handle:
            handle.client = type(handle.client)(schema=schema)
            expected[schema] = [
                await handle.enqueue(schema),
                await handle.enqueue(schema, delay=5),
                *await handle.enqueue_many([NewJob(payload=schema), NewJob(payload=1, delay=1)]),
            ]
            await handle.commit()

    with psycopg.connect(outbox) as connection:
        for schema in schemas:
            table = Table(connection, schema)
            assert table.ids() == expected[schema]
            assert [job.json() for job in table.jobs()] == [schema, schema]


@pytest.mark.parametrize("schema", NAMES)
def test_names_that_need_quotes_through_sqlalchemy(schema: str, outbox: str):
    migrate(outbox, schema=schema)
    for driver in ("psycopg", "psycopg2"):
        with engine(outbox, driver).begin() as connection:
            Client(schema=schema).enqueue(schema, tx=connection)
            Client(schema=schema).enqueue_many([NewJob(payload=schema)], tx=connection)

    with psycopg.connect(outbox) as connection:
        assert [job.json() for job in Table(connection, schema).jobs()] == [schema] * 4


def test_a_payload_is_all_that_plain_sql_needs(table: Table):
    table.connection.execute("""insert into outbox.immediate (payload) values ('{"a": 1}')""")

    (job,) = table.jobs()
    assert (job.topic, job.key, job.headers, job.json()) == ("default", None, {}, {"a": 1})


def test_the_function(table: Table):
    enqueue = "select outbox.enqueue('t', '{\"a\": 1}', headers => '{\"h\": \"x\"}')"
    (number,) = table.connection.execute(enqueue).fetchone()
    before = table.clock()
    (later,) = table.connection.execute(
        "select outbox.enqueue('t', '[]', key => 'k', delay => interval '1 hour')"
    ).fetchone()
    after = table.clock()

    (job,) = table.jobs()
    assert (job.id, job.topic, job.headers, job.json()) == (number, "t", {"h": "x"}, {"a": 1})
    (row,) = table.rows("scheduled")
    assert (row["id"], row["key"], row["payload"]) == (later, "k", b"[]")
    assert before <= row["due_at"] - timedelta(hours=1) <= after


@pytest.mark.parametrize("path", sorted(PRODUCERS.glob("*.sql")), ids=lambda path: path.name)
def test_the_examples_run(path: Path, table: Table):
    text = path.read_text().replace(':"schema"', sql.Identifier("outbox").as_string(None))

    table.connection.execute(text)

    assert table.ids()
    for job in table.jobs():
        if job.content_type == "application/json":
            job.json()
