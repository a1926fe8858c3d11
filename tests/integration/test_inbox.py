"""Effects exactly once in another database, by the id of the job."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta
from typing import Any

import asyncpg
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from pgcdc_outbox.errors import JobInvalid, SettingsError, TransactionMissing
from pgcdc_outbox.inbox import AsyncInbox, Inbox
from tests.wait import eventually

# What it is about does not depend on the version of the server.
pytestmark = pytest.mark.any_version

NAMES = {"schema": "public", "table": 'in "box%:x'}


@pytest.fixture
def elsewhere(database: str) -> str:
    """A database with an inbox, and no outbox."""
    with psycopg.connect(database) as connection:
        connection.execute(Inbox(**NAMES).creation())

    return database


def url(dsn: str) -> str:
    given = conninfo_to_dict(dsn)
    return (
        f"postgresql+psycopg://{given.get('user', '')}@/{given['dbname']}"
        f"?host={given['host']}&port={given['port']}"
    )


@contextmanager
def with_psycopg(dsn: str) -> Iterator[Any]:
    with psycopg.connect(dsn) as connection:
        yield connection


@contextmanager
def with_cursor(dsn: str) -> Iterator[Any]:
    with psycopg.connect(dsn) as connection, connection.cursor() as cursor:
        yield cursor


@contextmanager
def with_session(dsn: str) -> Iterator[Any]:
    engine = create_engine(url(dsn))
    try:
        with Session(engine) as session, session.begin():
            yield session
    finally:
        engine.dispose()


WAYS = pytest.mark.parametrize(
    "transaction", [with_psycopg, with_cursor, with_session], ids=["psycopg", "cursor", "session"]
)
Transaction = Callable[[str], AbstractContextManager[Any]]


@WAYS
def test_a_job_is_accepted_once(elsewhere: str, transaction: Transaction) -> None:
    inbox = Inbox(**NAMES)
    with transaction(elsewhere) as connection:
        assert inbox.accept(connection, 7)
        assert not inbox.accept(connection, 7)
        assert inbox.accept(connection, 7, consumer="another")

    with transaction(elsewhere) as connection:
        assert not inbox.accept(connection, 7)
        assert inbox.accept(connection, 8)


@WAYS
def test_what_is_rolled_back_was_not_accepted(elsewhere: str, transaction: Transaction) -> None:
    inbox = Inbox(**NAMES)
    with suppress(ZeroDivisionError), transaction(elsewhere) as connection:
        assert inbox.accept(connection, 7)
        raise ZeroDivisionError

    with transaction(elsewhere) as connection:
        assert inbox.accept(connection, 7)


async def test_from_asyncio(elsewhere: str) -> None:
    inbox = AsyncInbox(**NAMES)
    async with await psycopg.AsyncConnection.connect(elsewhere) as connection:
        assert await inbox.accept(connection, 1)
        assert not await inbox.accept(connection.cursor(), 1)

    engine = create_async_engine(url(elsewhere))
    async with AsyncSession(engine) as session, session.begin():
        assert not await inbox.accept(session, 1)
        assert await inbox.accept(session, 2)

    await engine.dispose()
    given = conninfo_to_dict(elsewhere)
    other = await asyncpg.connect(
        host=given["host"], port=given["port"], user=given.get("user"), database=given["dbname"]
    )
    with pytest.raises(TransactionMissing):
        await inbox.accept(other, 2)

    async with other.transaction():
        assert not await inbox.accept(other, 2)
        assert await inbox.accept(other, 3)
        assert await inbox.purge(other, timedelta(0)) == 3

    await other.close()


@pytest.mark.parametrize("commits", [True, False])
def test_who_comes_at_the_same_time_waits_for_the_first(elsewhere: str, commits: bool) -> None:
    inbox = Inbox(**NAMES)
    said: list[bool] = []

    def second() -> None:
        with psycopg.connect(elsewhere, application_name="second") as connection:
            said.append(inbox.accept(connection, 7))

    with psycopg.connect(elsewhere) as first:
        assert inbox.accept(first, 7)
        thread = threading.Thread(target=second)
        thread.start()
        # Within a transaction it would see the same sessions again and again.
        with psycopg.connect(elsewhere, autocommit=True) as watcher:
            waiting = (
                "select count(*) from pg_stat_activity "
                "where application_name = 'second' and wait_event_type = 'Lock'"
            )
            eventually(lambda: watcher.execute(waiting).fetchone() == (1,), timeout=60)

        assert said == []
        first.commit() if commits else first.rollback()

    thread.join()
    assert said == [not commits]


def test_old_rows_are_purged(elsewhere: str) -> None:
    inbox = Inbox(**NAMES)
    with psycopg.connect(elsewhere) as connection:
        for id_ in range(3):
            inbox.accept(connection, id_)

        connection.execute(
            psycopg.sql.SQL(
                "update {} set accepted_at = accepted_at - interval '2 d' where id = 1"
            ).format(psycopg.sql.Identifier(*NAMES.values()))
        )
        assert inbox.purge(connection, timedelta(days=1)) == 1
        assert not inbox.accept(connection, 0)
        assert inbox.accept(connection, 1)


def test_what_makes_no_sense_is_refused(elsewhere: str) -> None:
    with psycopg.connect(elsewhere, autocommit=True) as connection:
        with pytest.raises(TransactionMissing, match="without its effects"):
            Inbox(**NAMES).accept(connection, 1)

        with pytest.raises(SettingsError, match="older_than"):
            Inbox(**NAMES).purge(connection, timedelta(-1))

    with pytest.raises(JobInvalid, match=r"builtins\.object"):
        Inbox().accept(object(), 1)

    with pytest.raises(SettingsError, match="table"):
        Inbox(table="")


async def test_a_connection_of_the_other_kind_is_refused(elsewhere: str) -> None:
    with psycopg.connect(elsewhere) as connection, pytest.raises(JobInvalid):
        await AsyncInbox(**NAMES).accept(connection, 1)

    async with await psycopg.AsyncConnection.connect(elsewhere) as other:
        with pytest.raises(JobInvalid):
            Inbox(**NAMES).accept(other, 1)
