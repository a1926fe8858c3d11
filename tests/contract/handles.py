"""Every kind of object that may be given as ``tx``, behind one face for tests."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from inspect import isawaitable
from typing import Any

import asyncpg
import psycopg
import sqlalchemy as sa
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session
from sqlalchemy.orm import sessionmaker as orm_sessionmaker

from pgcdc_outbox.job import Job
from pgcdc_outbox.postgres.producer.client import AsyncClient, Client


class Base(DeclarativeBase):
    pass


class Sale(Base):
    __tablename__ = "sale"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    note: Mapped[str | None]


class Handle:
    """One ``tx``, the client that takes it, and the words of its own library."""

    def __init__(
        self,
        client: Client | AsyncClient,
        tx: Any,
        *,
        execute: Callable[[str], Any],
        commit: Callable[[], Any],
        rollback: Callable[[], Any],
        savepoint: Callable[[], Any] | None = None,
        add: Callable[[Any], None] | None = None,
    ) -> None:
        self.client = client
        self.tx = tx
        self.add = add
        self._execute = execute
        self._commit = commit
        self._rollback = rollback
        self._savepoint = savepoint

    async def enqueue(self, payload: Any, **kwargs: Any) -> int:
        return await settled(self.client.enqueue(payload, tx=self.tx, **kwargs))

    async def enqueue_many(self, jobs: Any) -> list[int]:
        return await settled(self.client.enqueue_many(jobs, tx=self.tx))

    async def execute(self, statement: str) -> None:
        await settled(self._execute(statement))

    async def commit(self) -> None:
        await settled(self._commit())

    async def rollback(self) -> None:
        await settled(self._rollback())

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """A savepoint that is rolled back at the end."""
        if self._savepoint is None:
            await self.execute("savepoint inner_part")
            yield
            await self.execute("rollback to savepoint inner_part")
            return

        nested = await settled(self._savepoint())
        yield
        await settled(nested.rollback())


async def settled(result: Any) -> Any:
    return await result if isawaitable(result) else result


class Table:
    """The tables of an outbox, as another session sees them."""

    def __init__(self, connection: psycopg.Connection[Any], schema: str = "outbox") -> None:
        self.connection = connection
        self._schema = psycopg.sql.Identifier(schema)

    def rows(self, table: str = "immediate") -> list[dict[str, Any]]:
        text = psycopg.sql.SQL("select * from {}.{} order by id").format(
            self._schema, psycopg.sql.Identifier(table)
        )
        return self.connection.cursor(row_factory=dict_row).execute(text).fetchall()

    def ids(self) -> list[int]:
        return sorted(row["id"] for name in ("immediate", "scheduled") for row in self.rows(name))

    def jobs(self) -> list[Job]:
        return [
            Job(
                id=row["id"],
                topic=row["topic"],
                payload=row["payload"],
                key=row["key"],
                headers=row["headers"] or {},
                content_type=row["content_type"] or "application/json",
            )
            for row in self.rows()
        ]

    def clock(self) -> datetime:
        """The server's, which times are to be reckoned from."""
        return self.connection.execute("select clock_timestamp()").fetchone()[0]

    def sales(self) -> int:
        return self.connection.execute("select count(*) from sale").fetchone()[0]


@asynccontextmanager
async def psycopg_connection(dsn: str) -> AsyncIterator[Handle]:
    with psycopg.connect(dsn) as connection:
        yield of_psycopg(connection, connection)


@asynccontextmanager
async def psycopg_with_dict_rows(dsn: str) -> AsyncIterator[Handle]:
    with psycopg.connect(
        dsn, row_factory=dict_row, cursor_factory=psycopg.ClientCursor
    ) as connection:
        yield of_psycopg(connection, connection)


@asynccontextmanager
async def psycopg_cursor(dsn: str) -> AsyncIterator[Handle]:
    with psycopg.connect(dsn) as connection, connection.cursor(row_factory=dict_row) as cursor:
        yield of_psycopg(connection, cursor)


@asynccontextmanager
async def psycopg_server_cursor(dsn: str) -> AsyncIterator[Handle]:
    with psycopg.connect(dsn) as connection, connection.cursor("named") as cursor:
        yield of_psycopg(connection, cursor)


@asynccontextmanager
async def psycopg_transaction(dsn: str) -> AsyncIterator[Handle]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("begin")
        with connection.transaction() as transaction:
            pass

        yield of_psycopg(connection, transaction)


def of_psycopg(connection: psycopg.Connection[Any], tx: Any) -> Handle:
    return Handle(
        Client(),
        tx,
        execute=lambda statement: connection.execute(statement),
        commit=lambda: connection.execute("commit"),
        rollback=lambda: connection.execute("rollback"),
    )


@asynccontextmanager
async def psycopg_async_connection(dsn: str) -> AsyncIterator[Handle]:
    async with await psycopg.AsyncConnection.connect(dsn, row_factory=dict_row) as connection:
        yield of_async_psycopg(connection, connection)


@asynccontextmanager
async def psycopg_async_cursor(dsn: str) -> AsyncIterator[Handle]:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        yield of_async_psycopg(connection, connection.cursor())


def of_async_psycopg(connection: psycopg.AsyncConnection[Any], tx: Any) -> Handle:
    return Handle(
        AsyncClient(),
        tx,
        execute=connection.execute,
        commit=connection.commit,
        rollback=connection.rollback,
    )


@asynccontextmanager
async def asyncpg_connection(dsn: str) -> AsyncIterator[Handle]:
    connection = await asyncpg.connect(**asyncpg_arguments(dsn))
    transaction = connection.transaction()
    await transaction.start()
    yield of_asyncpg(connection, transaction)
    await connection.close()


@asynccontextmanager
async def asyncpg_from_a_pool(dsn: str) -> AsyncIterator[Handle]:
    async with (
        asyncpg.create_pool(**asyncpg_arguments(dsn), min_size=1, max_size=1) as pool,
        pool.acquire() as connection,
    ):
        transaction = connection.transaction()
        await transaction.start()
        yield of_asyncpg(connection, transaction)


def of_asyncpg(connection: Any, transaction: Any) -> Handle:
    return Handle(
        AsyncClient(),
        connection,
        execute=connection.execute,
        commit=transaction.commit,
        rollback=transaction.rollback,
    )


def asyncpg_arguments(dsn: str) -> dict[str, Any]:
    names = {"dbname": "database"}
    given = conninfo_to_dict(dsn)
    return {
        names.get(name, name): given[name]
        for name in ("host", "port", "user", "password", "dbname")
        if name in given
    }


def engine(dsn: str, driver: str, **options: Any) -> sa.Engine:
    return sa.create_engine(url(dsn, driver), poolclass=sa.NullPool, **options)


def async_engine(dsn: str, driver: str, **options: Any) -> AsyncEngine:
    return create_async_engine(url(dsn, driver), poolclass=sa.NullPool, **options)


def url(dsn: str, driver: str) -> sa.URL:
    given = asyncpg_arguments(dsn)
    # A socket's folder is no host of a URL.
    return sa.URL.create(
        f"postgresql+{driver}",
        username=given.get("user"),
        password=given.get("password"),
        database=given["database"],
        query={name: str(given[name]) for name in ("host", "port") if name in given},
    )


def sqlalchemy_session(driver: str) -> Callable[[str], AbstractAsyncContextManager[Handle]]:
    @asynccontextmanager
    async def open_session(dsn: str) -> AsyncIterator[Handle]:
        with Session(engine(dsn, driver)) as session:
            yield of_sqlalchemy(Client(), session)

    return open_session


@asynccontextmanager
async def sqlalchemy_scoped_session(dsn: str) -> AsyncIterator[Handle]:
    session = scoped_session(orm_sessionmaker(engine(dsn, "psycopg")))
    yield of_sqlalchemy(Client(), session)
    session.remove()


@asynccontextmanager
async def sqlalchemy_connection(dsn: str) -> AsyncIterator[Handle]:
    with engine(dsn, "psycopg").connect() as connection:
        yield of_sqlalchemy(Client(), connection)


def sqlalchemy_async_session(driver: str) -> Callable[[str], AbstractAsyncContextManager[Handle]]:
    @asynccontextmanager
    async def open_session(dsn: str) -> AsyncIterator[Handle]:
        async with AsyncSession(async_engine(dsn, driver)) as session:
            yield of_sqlalchemy(AsyncClient(), session)

    return open_session


@asynccontextmanager
async def sqlalchemy_async_scoped_session(dsn: str) -> AsyncIterator[Handle]:
    maker = async_sessionmaker(async_engine(dsn, "psycopg"))
    session = async_scoped_session(maker, scopefunc=lambda: 1)
    yield of_sqlalchemy(AsyncClient(), session)
    await session.remove()


def sqlalchemy_async_connection(
    driver: str,
) -> Callable[[str], AbstractAsyncContextManager[Handle]]:
    @asynccontextmanager
    async def open_connection(dsn: str) -> AsyncIterator[Handle]:
        async with async_engine(dsn, driver).connect() as connection:
            yield of_sqlalchemy(AsyncClient(), connection)

    return open_connection


def of_sqlalchemy(client: Client | AsyncClient, tx: Any) -> Handle:
    return Handle(
        client,
        tx,
        execute=lambda statement: tx.execute(sa.text(statement)),
        commit=lambda: tx.commit(),
        rollback=lambda: tx.rollback(),
        savepoint=lambda: tx.begin_nested(),
        add=getattr(tx, "add", None),
    )


HANDLES: dict[str, Callable[[str], AbstractAsyncContextManager[Handle]]] = {
    "psycopg-connection": psycopg_connection,
    "psycopg-dict-rows": psycopg_with_dict_rows,
    "psycopg-cursor": psycopg_cursor,
    "psycopg-server-cursor": psycopg_server_cursor,
    "psycopg-transaction": psycopg_transaction,
    "psycopg-async-connection": psycopg_async_connection,
    "psycopg-async-cursor": psycopg_async_cursor,
    "asyncpg-connection": asyncpg_connection,
    "asyncpg-pool": asyncpg_from_a_pool,
    "sqlalchemy-session": sqlalchemy_session("psycopg"),
    "sqlalchemy-session-psycopg2": sqlalchemy_session("psycopg2"),
    "sqlalchemy-scoped-session": sqlalchemy_scoped_session,
    "sqlalchemy-connection": sqlalchemy_connection,
    "sqlalchemy-async-session": sqlalchemy_async_session("psycopg"),
    "sqlalchemy-async-session-asyncpg": sqlalchemy_async_session("asyncpg"),
    "sqlalchemy-async-scoped-session": sqlalchemy_async_scoped_session,
    "sqlalchemy-async-connection": sqlalchemy_async_connection("psycopg"),
    "sqlalchemy-async-connection-asyncpg": sqlalchemy_async_connection("asyncpg"),
}
