"""What cannot be enqueued is refused before anything is sent, with the field named."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg
import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from pgcdc_outbox.errors import JobInvalid, SettingsError, TransactionMissing
from pgcdc_outbox.job import NewJob
from pgcdc_outbox.postgres.producer.client import AsyncClient, Client
from tests.contract.handles import Table, async_engine, asyncpg_arguments, engine, settled

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version

UTC_NOW = datetime(2026, 1, 1, tzinfo=UTC)

INVALID: list[tuple[dict[str, Any], str]] = [
    ({"topic": ""}, "topic: is empty"),
    ({"topic": None}, "topic: a NoneType is given"),
    ({"topic": b"t"}, "topic: a bytes is given"),
    ({"topic": "a\0b"}, "topic: has a NUL"),
    ({"topic": "x" * 256}, "topic: 256 bytes"),
    ({"topic": "\u20ac" * 86}, "topic: 258 bytes"),
    ({"topic": "\ud800"}, "topic: has a lone surrogate"),
    ({"key": 7}, "key: a int is given"),
    ({"key": "\0"}, "key: has a NUL"),
    ({"key": "x" * 1025}, "key: 1025 bytes"),
    ({"headers": [("a", "b")]}, "headers: a list is given"),
    ({"headers": {"a": 1}}, "headers['a']: a int is given"),
    ({"headers": {1: "a"}}, "headers[1]: a int is given"),
    ({"headers": {"a": None}}, "headers['a']: a NoneType is given"),
    ({"headers": {"a": "\0"}}, "headers['a']: has a NUL"),
    ({"headers": {"\ud800": "a"}}, "headers['\\ud800']: has a lone surrogate"),
    ({"run_at": datetime(2026, 1, 1)}, "run_at: 2026-01-01T00:00:00 has no time zone"),
    ({"run_at": date(2026, 1, 1)}, "run_at: a date is given"),
    ({"run_at": "2026-01-01"}, "run_at: a str is given"),
    ({"run_at": datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))}, "run_at: 9999"),
    ({"run_at": UTC_NOW, "delay": 1}, "run_at, delay: both"),
    ({"run_at": UTC_NOW, "delay": 0}, "run_at, delay: both"),
    ({"delay": -1}, "delay: -1 is not within"),
    ({"delay": timedelta(seconds=-1)}, "delay: datetime.timedelta"),
    ({"delay": float("nan")}, "delay: nan is not within"),
    ({"delay": float("inf")}, "delay: inf is not within"),
    ({"delay": 10**400}, "delay: 1000"),
    ({"delay": timedelta.max}, "delay: datetime.timedelta"),
    ({"delay": True}, "delay: a bool is given"),
    ({"delay": "5"}, "delay: a str is given"),
    ({"delay": Decimal(5)}, "delay: a Decimal is given"),
    ({"expires_at": datetime(2026, 1, 1)}, "expires_at: 2026-01-01T00:00:00 has no time zone"),
    ({"expires_at": "2026-01-01"}, "expires_at: a str is given"),
    ({"expires_at": UTC_NOW, "time_to_live": 1}, "expires_at, time_to_live: both"),
    ({"expires_at": UTC_NOW, "run_at": UTC_NOW}, "expires_at: is not after run_at"),
    ({"time_to_live": 0}, "time_to_live: is nothing"),
    ({"time_to_live": -1}, "time_to_live: -1 is not within"),
    ({"time_to_live": "5"}, "time_to_live: a str is given"),
    ({"payload": "x" * 100}, "payload: 102 bytes, and the limit is 100"),
    ({"payload": b"x" * 101}, "payload: 101 bytes, and the limit is 100"),
    ({"payload": float("nan")}, "payload: nan"),
]


class Untouchable:
    """A connection that must not be looked at."""

    @property
    def __class__(self):
        raise AssertionError("looked at the handle before the job was checked")


@pytest.mark.parametrize(("arguments", "message"), INVALID, ids=lambda part: repr(part)[:40])
def test_refused_before_the_handle_is_touched(arguments, message):
    client = Client(max_payload_bytes=100)

    with pytest.raises(JobInvalid) as caught:
        client.enqueue(**{"payload": 1, "tx": Untouchable(), **arguments})

    assert str(caught.value).startswith(message)
    with pytest.raises(JobInvalid) as caught:
        client.enqueue_many(
            [NewJob(payload=1), NewJob(**{"payload": 1, **arguments})], tx=Untouchable()
        )

    assert str(caught.value).startswith(f"jobs[1].{message}")


@pytest.mark.parametrize(
    "arguments",
    [
        {"topic": "x" * 255},
        {"topic": "\u20ac" * 85},
        {"key": ""},
        {"key": "x" * 1024},
        {"headers": {}},
        {"headers": {"": ""}},
        {"headers": SimpleNamespace(a="b").__dict__},
        {"payload": "x" * 98},
        {"payload": b"x" * 100},
        {"payload": "\0"},
        {"delay": 0},
        {"delay": 1e-9},
        {"delay": timedelta(days=365_250)},
        {"run_at": datetime.max.replace(tzinfo=UTC)},
        {"run_at": datetime.min.replace(tzinfo=UTC)},
        {"run_at": datetime(1880, 1, 1, tzinfo=ZoneInfo("Europe/Amsterdam"))},
    ],
    ids=lambda part: repr(part)[:40],
)
def test_the_outermost_that_is_accepted_is_stored(arguments, outbox: str, table: Table):
    client = Client(max_payload_bytes=100)
    with psycopg.connect(outbox) as connection:
        one = client.enqueue(**{"payload": 1, "tx": connection, **arguments})
        many = client.enqueue_many([NewJob(**{"payload": 1, **arguments})], tx=connection)

    assert table.ids() == [one, *many]


@pytest.mark.parametrize("jobs", [None, NewJob(payload=1), {"a": 1}, "jobs", 5], ids=repr)
def test_what_is_no_list_of_jobs(jobs):
    with pytest.raises(JobInvalid, match=r"^jobs: "):
        Client().enqueue_many(jobs, tx=Untouchable())


def test_what_is_no_new_job():
    with pytest.raises(JobInvalid, match=r"^jobs\[1\]: a dict"):
        Client().enqueue_many([NewJob(payload=1), {"a": 1}], tx=Untouchable())


@pytest.mark.parametrize("limit", [0, -1, 2**28 + 1])
def test_a_limit_that_makes_no_sense(limit):
    with pytest.raises(SettingsError, match="max_payload_bytes"):
        Client(max_payload_bytes=limit)


@pytest.mark.parametrize("schema", ["", "a\0b", "x" * 64, "pg_x"])
def test_a_schema_that_cannot_be(schema):
    with pytest.raises(SettingsError, match="schema"):
        AsyncClient(schema=schema)


@pytest.mark.parametrize(
    "handle",
    [object(), 5, "host=x", sa.create_engine("sqlite://"), psycopg],
    ids=lambda handle: type(handle).__name__,
)
async def test_a_handle_of_nobody(handle):
    for client in (Client(), AsyncClient()):
        with pytest.raises(JobInvalid) as caught:
            await settled(client.enqueue(1, tx=handle))

        assert str(caught.value).startswith(f"tx: a {type(handle).__module__}.")
        assert "Session" in str(caught.value)


async def test_a_handle_of_the_other_client(outbox: str):
    with psycopg.connect(outbox) as connection:
        with pytest.raises(JobInvalid, match=r"^tx: a psycopg.Connection") as caught:
            await AsyncClient().enqueue(1, tx=connection)

        assert caught.value.hint == "Use Client."

    async with AsyncSession(async_engine(outbox, "psycopg")) as session:
        with pytest.raises(JobInvalid, match=r"^tx: a sqlalchemy.*AsyncSession") as caught:
            Client().enqueue(1, tx=session)

        assert caught.value.hint == "Use AsyncClient."


def test_a_session_of_another_database():
    with (
        sa.create_engine("sqlite://").connect() as connection,
        pytest.raises(JobInvalid, match=r"^tx: it is bound to sqlite"),
    ):
        Client().enqueue(1, tx=connection)


def test_psycopg_in_autocommit_mode(outbox: str, table: Table):
    client = Client()
    with psycopg.connect(outbox, autocommit=True) as connection:
        for handle in (connection, connection.cursor()):
            with pytest.raises(TransactionMissing, match=r"^tx: "):
                client.enqueue(1, tx=handle)

            with pytest.raises(TransactionMissing):
                client.enqueue_many([NewJob(payload=1)], tx=handle)

        assert table.ids() == []
        with connection.transaction():
            number = client.enqueue(1, tx=connection)

        assert table.ids() == [number]


async def test_async_handles_in_autocommit_mode(outbox: str, table: Table):
    client = AsyncClient()
    async with await psycopg.AsyncConnection.connect(outbox, autocommit=True) as connection:
        with pytest.raises(TransactionMissing):
            await client.enqueue(1, tx=connection)

    connection = await asyncpg.connect(**asyncpg_arguments(outbox))
    with pytest.raises(TransactionMissing):
        await client.enqueue(1, tx=connection)

    await connection.close()
    for driver in ("psycopg", "asyncpg"):
        open_engine = async_engine(outbox, driver, isolation_level="AUTOCOMMIT")
        async with AsyncSession(open_engine) as session:
            with pytest.raises(TransactionMissing):
                await client.enqueue(1, tx=session)

    assert table.ids() == []


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_sqlalchemy_in_autocommit_mode(driver: str, outbox: str, table: Table):
    client = Client()
    with (
        engine(outbox, driver, isolation_level="AUTOCOMMIT").connect() as connection,
        pytest.raises(TransactionMissing),
    ):
        client.enqueue(1, tx=connection)

    with engine(outbox, driver).connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(TransactionMissing):
            client.enqueue(1, tx=connection)

    assert table.ids() == []


def test_results_of_the_callers_cursor_stay(outbox: str):
    with psycopg.connect(outbox) as connection, connection.cursor() as cursor:
        cursor.execute("select generate_series(1, 3)")
        assert cursor.fetchone() == (1,)
        Client().enqueue(1, tx=cursor)
        Client().enqueue_many([NewJob(payload=1)], tx=cursor)

        assert cursor.fetchall() == [(2,), (3,)]


def test_a_proxy_is_taken_for_what_it_stands_for(outbox: str, table: Table):
    class Traced:
        def __init__(self, wrapped):
            self._wrapped = wrapped

        @property
        def __class__(self):
            return type(self._wrapped)

        def __getattr__(self, name):
            return getattr(self._wrapped, name)

    with psycopg.connect(outbox) as connection, connection.cursor() as cursor:
        number = Client().enqueue(1, tx=Traced(cursor))

    assert table.ids() == [number]
