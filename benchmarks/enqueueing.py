"""Ways to enqueue one job: ours, and the same INSERT by hand in the same driver.

Each way opens a connection and gives a `Desk`. What it does by hand is what somebody would
write who had no library: the columns that a job needs, the id back, and an encoder of JSON.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from typing import Any, Final

import asyncpg
import msgspec
import psycopg
import sqlalchemy as sa
from msgspec import Struct
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from pgcdc_outbox import AsyncClient, Client

TOPIC: Final = "order.paid"

_URL: Final = "postgresql+psycopg://"

_INSERT: Final = "insert into outbox.immediate (topic, payload) values (%s, %s) returning id"
_NUMBERED: Final = "insert into outbox.immediate (topic, payload) values ($1, $2) returning id"
_NAMED: Final = sa.text(
    "insert into outbox.immediate (topic, payload) values (:topic, :payload) returning id"
)


class Desk(Struct, frozen=True, kw_only=True):
    """An open connection; each function puts a job with that number, or commits."""

    ours: Callable[[int], Any]
    by_hand: Callable[[int], Any]
    commit: Callable[[], Any]


class AsyncDesk(Struct, frozen=True, kw_only=True):
    """The same, awaited."""

    ours: Callable[[int], Awaitable[Any]]
    by_hand: Callable[[int], Awaitable[Any]]
    commit: Callable[[], Awaitable[Any]]


Way = Callable[[str, str], AbstractContextManager[Desk]]
"""DSN and synchronous_commit."""
AsyncWay = Callable[[str, str], AbstractAsyncContextManager[AsyncDesk]]


@contextmanager
def _connection(dsn: str, synchronous: str) -> Iterator[Desk]:
    with psycopg.connect(dsn, options=_options(synchronous)) as connection:

        def by_hand(number: int) -> None:
            connection.execute(_INSERT, [TOPIC, _encoded(number)]).fetchone()

        yield Desk(ours=_ours(connection), by_hand=by_hand, commit=connection.commit)


@contextmanager
def _cursor(dsn: str, synchronous: str) -> Iterator[Desk]:
    with (
        psycopg.connect(dsn, options=_options(synchronous)) as connection,
        connection.cursor() as cursor,
    ):

        def by_hand(number: int) -> None:
            cursor.execute(_INSERT, [TOPIC, _encoded(number)]).fetchone()

        yield Desk(ours=_ours(cursor), by_hand=by_hand, commit=connection.commit)


@contextmanager
def _session(dsn: str, synchronous: str) -> Iterator[Desk]:
    with _engine(dsn, synchronous) as engine, Session(engine) as session:
        yield _of_sqlalchemy(session)


@contextmanager
def _sqlalchemy_connection(dsn: str, synchronous: str) -> Iterator[Desk]:
    with _engine(dsn, synchronous) as engine, engine.connect() as connection:
        yield _of_sqlalchemy(connection)


@contextmanager
def _engine(dsn: str, synchronous: str) -> Iterator[sa.Engine]:
    # With its pool: a session gives its connection back at each commit.
    engine = sa.create_engine(_URL, connect_args=_arguments(dsn, synchronous))
    try:
        yield engine
    finally:
        engine.dispose()


def _of_sqlalchemy(tx: Session | sa.Connection) -> Desk:
    def by_hand(number: int) -> None:
        tx.execute(_NAMED, {"topic": TOPIC, "payload": _encoded(number)}).scalar_one()

    return Desk(ours=_ours(tx), by_hand=by_hand, commit=tx.commit)


@asynccontextmanager
async def _async_connection(dsn: str, synchronous: str) -> AsyncIterator[AsyncDesk]:
    async with await psycopg.AsyncConnection.connect(
        dsn, options=_options(synchronous)
    ) as connection:

        async def by_hand(number: int) -> None:
            await (await connection.execute(_INSERT, [TOPIC, _encoded(number)])).fetchone()

        yield AsyncDesk(ours=_async_ours(connection), by_hand=by_hand, commit=connection.commit)


@asynccontextmanager
async def _async_cursor(dsn: str, synchronous: str) -> AsyncIterator[AsyncDesk]:
    async with (
        await psycopg.AsyncConnection.connect(dsn, options=_options(synchronous)) as connection,
        connection.cursor() as cursor,
    ):

        async def by_hand(number: int) -> None:
            await (await cursor.execute(_INSERT, [TOPIC, _encoded(number)])).fetchone()

        yield AsyncDesk(ours=_async_ours(cursor), by_hand=by_hand, commit=connection.commit)


@asynccontextmanager
async def _asyncpg(dsn: str, synchronous: str) -> AsyncIterator[AsyncDesk]:
    place = conninfo_to_dict(dsn)
    connection = await asyncpg.connect(
        host=place.get("host"),
        port=place.get("port"),
        user=place.get("user"),
        password=place.get("password"),
        database=place.get("dbname"),
        server_settings={"synchronous_commit": synchronous},
    )
    transaction = connection.transaction()
    await transaction.start()

    async def by_hand(number: int) -> None:
        await connection.fetchval(_NUMBERED, TOPIC, _encoded(number))

    async def commit() -> None:
        nonlocal transaction
        await transaction.commit()
        transaction = connection.transaction()
        await transaction.start()

    try:
        yield AsyncDesk(ours=_async_ours(connection), by_hand=by_hand, commit=commit)
    finally:
        await connection.close()


@asynccontextmanager
async def _async_session(dsn: str, synchronous: str) -> AsyncIterator[AsyncDesk]:
    engine = create_async_engine(_URL, connect_args=_arguments(dsn, synchronous))
    try:
        async with AsyncSession(engine) as session:

            async def by_hand(number: int) -> None:
                arguments = {"topic": TOPIC, "payload": _encoded(number)}
                (await session.execute(_NAMED, arguments)).scalar_one()

            yield AsyncDesk(ours=_async_ours(session), by_hand=by_hand, commit=session.commit)
    finally:
        await engine.dispose()


def _ours(tx: Any) -> Callable[[int], int]:
    client = Client()
    return lambda number: client.enqueue({"order": number}, topic=TOPIC, tx=tx)


def _async_ours(tx: Any) -> Callable[[int], Awaitable[int]]:
    client = AsyncClient()
    return lambda number: client.enqueue({"order": number}, topic=TOPIC, tx=tx)


def _encoded(number: int) -> bytes:
    return msgspec.json.encode({"order": number})


def _options(synchronous: str) -> str:
    return f"-c synchronous_commit={synchronous}"


def _arguments(dsn: str, synchronous: str) -> dict[str, Any]:
    return conninfo_to_dict(dsn) | {"options": _options(synchronous)}


WAYS: Final[dict[str, Way]] = {
    "psycopg, connection": _connection,
    "psycopg, cursor": _cursor,
    "SQLAlchemy, Session": _session,
    "SQLAlchemy, Connection": _sqlalchemy_connection,
}
ASYNC_WAYS: Final[dict[str, AsyncWay]] = {
    "psycopg, AsyncConnection": _async_connection,
    "psycopg, AsyncCursor": _async_cursor,
    "asyncpg": _asyncpg,
    "SQLAlchemy, AsyncSession": _async_session,
}
