"""Without tx a job is committed on its own: once, or with an error that says what is not known."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from pgcdc_outbox.errors import (
    PermissionMissing,
    SchemaBehind,
    SettingsError,
    SourceUnavailable,
)
from pgcdc_outbox.job import NewJob
from pgcdc_outbox.postgres.producer.client import AsyncClient, Client
from tests.contract.handles import Table, settled
from tests.wait import eventually

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version

JOBS = [NewJob(payload=1), NewJob(payload=2, delay=5), NewJob(payload=3)]
APPLICATION = "client_under_test"


@pytest.fixture
def dsn(outbox: str) -> str:
    return make_conninfo(outbox, application_name=APPLICATION)


def terminate(table: Table) -> None:
    """End the client's session, and wait until it is gone."""
    ended = table.connection.execute(
        "select pg_terminate_backend(pid, 60000) from pg_stat_activity "
        "where application_name = %s and datname = current_database()",
        (APPLICATION,),
    ).fetchall()
    assert ended == [(True,)]


def sessions(table: Table) -> int:
    """How many the client has."""
    return table.connection.execute(
        "select count(*) from pg_stat_activity "
        "where application_name = %s and datname = current_database()",
        (APPLICATION,),
    ).fetchone()[0]


def test_committed_when_it_returns(dsn: str, table: Table):
    with Client(dsn) as client:
        first = client.enqueue(1)
        assert table.ids() == [first]
        rest = client.enqueue_many(JOBS)
        assert table.ids() == [first, *rest]
        assert client.enqueue_many([]) == []


async def test_committed_when_awaited(dsn: str, table: Table):
    async with AsyncClient(dsn) as client:
        first = await client.enqueue(1)
        assert table.ids() == [first]
        rest = await client.enqueue_many(JOBS)
        assert table.ids() == [first, *rest]
        assert await client.enqueue_many([]) == []


def test_a_pool(dsn: str, table: Table):
    with ConnectionPool(dsn, min_size=1, max_size=2) as pool, Client(pool) as client:
        ids = [client.enqueue(1), *client.enqueue_many(JOBS)]
        client.close()

        assert not pool.closed
        assert table.ids() == ids
        assert "ConnectionPool" in repr(client)


async def test_an_async_pool(dsn: str, table: Table):
    async with (
        AsyncConnectionPool(dsn, min_size=1, max_size=2, open=False) as pool,
        AsyncClient(pool) as client,
    ):
        ids = [await client.enqueue(1), *await client.enqueue_many(JOBS)]

        assert table.ids() == ids


async def test_pools_of_the_other_client(dsn: str):
    with (
        ConnectionPool(dsn, min_size=0, max_size=1, open=False) as pool,
        pytest.raises(SettingsError, match="ConnectionPool"),
    ):
        await AsyncClient(pool).enqueue(1)

    async with AsyncConnectionPool(dsn, min_size=0, max_size=1, open=False) as async_pool:
        with pytest.raises(SettingsError, match="AsyncConnectionPool"):
            Client(async_pool).enqueue(1)


def test_what_is_neither_conninfo_nor_pool():
    for given in (5, b"host=x", object(), ConnectionPool):
        with pytest.raises(SettingsError, match=r"^conninfo_or_pool: "):
            Client(given)


def test_the_environment_tells_where(dsn: str, table: Table, monkeypatch):
    monkeypatch.setenv("PGHOST", "/nowhere")
    with Client() as client:
        # Only now: a client may be made before the settings are.
        monkeypatch.setenv("PGCDC_OUTBOX_DSN", dsn)
        assert [client.enqueue(1)] == table.ids()


def test_libpqs_own_variables_tell_where(dsn: str, table: Table, monkeypatch):
    monkeypatch.delenv("PGCDC_OUTBOX_DSN", raising=False)
    given = conninfo_to_dict(dsn)
    for name, variable in {
        "host": "PGHOST",
        "port": "PGPORT",
        "dbname": "PGDATABASE",
        "user": "PGUSER",
        "password": "PGPASSWORD",
    }.items():
        if name in given:
            monkeypatch.setenv(variable, str(given[name]))

    with Client() as client:
        assert [client.enqueue(1)] == table.ids()


def test_one_connection_is_opened_and_only_when_needed(dsn: str, table: Table):
    with Client(dsn) as client:
        assert sessions(table) == 0
        client.enqueue(1)
        client.enqueue(1)
        assert sessions(table) == 1


def test_a_session_that_was_ended_is_replaced(dsn: str, table: Table):
    with Client(dsn) as client:
        first = client.enqueue(1)
        terminate(table)
        second = client.enqueue(2)
        terminate(table)
        third = client.enqueue_many(JOBS)

        assert table.ids() == [first, second, *third]


async def test_an_async_session_that_was_ended_is_replaced(dsn: str, table: Table):
    async with AsyncClient(dsn) as client:
        first = await client.enqueue(1)
        terminate(table)
        second = await client.enqueue(2)
        terminate(table)
        third = await client.enqueue_many(JOBS)

        assert table.ids() == [first, second, *third]


async def test_all_of_a_list_or_none(dsn: str, table: Table):
    table.connection.execute(
        "alter table outbox.scheduled add constraint none_later check (due_at < '2000-01-01')"
    )
    async with AsyncClient(dsn) as async_client:
        for client in (Client(dsn), async_client):
            with pytest.raises(psycopg.errors.CheckViolation):
                await settled(client.enqueue_many(JOBS))

            assert table.ids() == []
            if isinstance(client, Client):
                client.close()


def slow_down(table: Table) -> None:
    """Let an insert wait for a lock that this test holds."""
    table.connection.execute(
        """
        create function wait() returns trigger language plpgsql as
        $$ begin perform pg_advisory_xact_lock(7); return new; end $$;
        create trigger wait before insert on outbox.immediate_default
        for each row execute function wait();
        select pg_advisory_lock(7);
        """
    )


def wait_until_blocked(table: Table) -> None:
    query = """
        select count(*) from pg_stat_activity
        where application_name = %s and wait_event = 'advisory' and datname = current_database()
    """
    eventually(lambda: table.connection.execute(query, (APPLICATION,)).fetchone()[0])


@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
def test_a_session_that_ends_under_way_is_told_and_nothing_sent_twice(
    many: bool, dsn: str, table: Table
):
    slow_down(table)
    with Client(dsn) as client, ThreadPoolExecutor(1) as thread:
        call = (
            thread.submit(client.enqueue_many, JOBS) if many else thread.submit(client.enqueue, 1)
        )
        wait_until_blocked(table)
        terminate(table)
        with pytest.raises(SourceUnavailable, match="may be committed, or not") as caught:
            call.result(60)

        assert caught.value.transient
        table.connection.execute("drop trigger wait on outbox.immediate_default")
        assert table.ids() == []
        assert [client.enqueue(2)] == table.ids()


async def test_an_async_session_that_ends_under_way_is_told(dsn: str, table: Table):
    slow_down(table)
    async with AsyncClient(dsn) as client:
        call = asyncio.create_task(client.enqueue(1))
        await asyncio.to_thread(wait_until_blocked, table)
        terminate(table)
        with pytest.raises(SourceUnavailable, match="may be committed, or not"):
            await call

        table.connection.execute("drop trigger wait on outbox.immediate_default")
        assert [await client.enqueue(2)] == table.ids()


async def test_a_cancelled_call_leaves_the_client_usable(dsn: str, table: Table):
    slow_down(table)
    async with AsyncClient(dsn) as client:
        for call in (client.enqueue(1), client.enqueue_many(JOBS)):
            task = asyncio.create_task(call)
            await asyncio.to_thread(wait_until_blocked, table)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        table.connection.execute("drop trigger wait on outbox.immediate_default")
        assert [await client.enqueue(2)] == table.ids()


def test_threads_share_a_client(dsn: str, table: Table):
    with Client(dsn) as client, ThreadPoolExecutor(8) as threads:
        ids = list(threads.map(client.enqueue, range(200)))

    assert len(set(ids)) == 200
    assert {job.id: job.json() for job in table.jobs()} == dict(zip(ids, range(200), strict=True))


async def test_tasks_share_a_client(dsn: str, table: Table):
    async with AsyncClient(dsn) as client:
        ids = await asyncio.gather(*(client.enqueue(number) for number in range(100)))

    assert {job.id: job.json() for job in table.jobs()} == dict(zip(ids, range(100), strict=True))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_process_opens_its_own_connection(outbox: str, dsn: str, table: Table):
    with Client(dsn) as client:
        client.enqueue("before")
        child = os.fork()
        if child == 0:
            try:
                client.enqueue("child")
                with psycopg.connect(outbox, autocommit=True) as connection:
                    os._exit(0 if sessions(Table(connection)) == 2 else 2)
            finally:
                os._exit(1)

        assert os.waitpid(child, 0)[1] == 0
        client.enqueue("after")

    assert sorted(job.json() for job in table.jobs()) == ["after", "before", "child"]


def test_a_closed_client_says_so(dsn: str, table: Table):
    client = Client(dsn)
    client.enqueue(1)
    client.close()
    client.close()
    with pytest.raises(SettingsError, match="closed"):
        client.enqueue(1)

    with psycopg.connect(dsn) as connection:
        client.enqueue(2, tx=connection)

    assert len(table.ids()) == 2


async def test_a_server_that_is_not_there():
    for client in (Client("host=/nowhere password=hush"), AsyncClient("host=/nowhere")):
        with pytest.raises(SourceUnavailable, match="nothing was sent") as caught:
            await settled(client.enqueue(1))

        assert "hush" not in str(caught.value)


def test_an_outbox_that_is_not_there(database: str):
    with Client(database) as client:
        with pytest.raises(SchemaBehind):
            client.enqueue(1)

        with pytest.raises(SchemaBehind):
            client.enqueue_many(JOBS)


def test_a_role_that_may_not(dsn: str, table: Table):
    role = f"mute_{os.getpid()}"
    table.connection.execute(f"create role {role}")
    try:
        with (
            Client(make_conninfo(dsn, options=f"-c role={role}")) as client,
            pytest.raises(PermissionMissing),
        ):
            client.enqueue(1)
    finally:
        table.connection.execute(f"drop role {role}")


@pytest.mark.parametrize(
    "conninfo",
    [
        "postgresql://me:hush@/x?host=/nowhere",
        "host=/nowhere user=me password=hush",
        "host=/nowhere password=hush sslpassword=hush",
    ],
)
def test_no_password_is_shown(conninfo: str):
    client = Client(conninfo)

    assert "hush" not in repr(client)
    assert "/nowhere" in repr(client)
    with pytest.raises(SourceUnavailable) as caught:
        client.enqueue(1)

    assert "hush" not in f"{caught.value!r} {caught.value} {caught.value.hint}"
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "conninfo", ["postgres//me:hush@host/x", "password=hush x", "postgresql://me:a@hush@host/x"]
)
def test_a_conninfo_that_makes_no_sense_is_not_quoted(conninfo: str, monkeypatch):
    with pytest.raises(SettingsError) as caught:
        Client(conninfo)

    assert "hush" not in f"{caught.value} {caught.value.hint}"
    assert str(caught.value).startswith("conninfo: ")
    monkeypatch.setenv("PGCDC_OUTBOX_DSN", conninfo)
    with pytest.raises(SettingsError, match=r"^PGCDC_OUTBOX_DSN: "):
        Client().enqueue(1)
