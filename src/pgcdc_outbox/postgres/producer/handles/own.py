"""Handles for jobs that commit on their own: a connection we keep, or a pool.

A statement is sent once. If the connection breaks while it is under way, nobody
knows whether it was committed, so that is for the caller to hear, not for us to
try again.
"""

import asyncio
import os
import select
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from typing import Any

import psycopg
from psycopg import AsyncConnection, BaseConnection, Connection
from psycopg.pq import TransactionStatus

from pgcdc_outbox.errors import OutboxError, SettingsError, SourceUnavailable
from pgcdc_outbox.postgres.connection import translate
from pgcdc_outbox.postgres.producer.enqueue import Row
from pgcdc_outbox.postgres.producer.handles.address import Address
from pgcdc_outbox.postgres.producer.handles.with_psycopg import AsyncPsycopgHandle, PsycopgHandle


class Kept:
    """One connection, opened when it is first needed; threads take turns."""

    def __init__(self, address: Address, schema: str) -> None:
        self._address = address
        self._schema = schema
        self._lock = threading.Lock()
        self._connection: Connection[Any] | None = None
        self._pid = os.getpid()
        self._closed = False

    def insert(self, row: Row) -> int:
        """Insert and commit one row; its id."""
        with self._lock, translating(), self._ready() as connection, _unit(connection, row):
            return PsycopgHandle(connection, self._schema).insert(row)

    def insert_many(self, rows: Sequence[Row]) -> list[int]:
        """Insert and commit some rows, all or none; their ids, in the same order."""
        with self._lock, translating(), self._ready() as connection, connection.transaction():
            return PsycopgHandle(connection, self._schema).insert_many(rows)

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._closed = True
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()

            self._connection = None

    @contextmanager
    def _ready(self) -> Iterator[Connection[Any]]:
        _refuse_closed(self._closed)
        # After a fork the socket is the parent's: leave it alone.
        if self._pid != os.getpid():
            self._connection = None

        if self._connection is not None and not _is_usable(self._connection):
            self._connection.close()
            self._connection = None

        if self._connection is None:
            self._pid = os.getpid()
            self._connection = self._open()

        yield self._connection

    def _open(self) -> Connection[Any]:
        try:
            return Connection.connect(**self._address.parameters)
        except psycopg.OperationalError as error:
            # Not chained: what libpq says may quote what it was given.
            raise _unreachable(error, self._address) from None

    def __repr__(self) -> str:
        return repr(self._address)


class AsyncKept:
    """One asynchronous connection, opened when it is first needed; tasks take turns."""

    def __init__(self, address: Address, schema: str) -> None:
        self._address = address
        self._schema = schema
        self._lock = asyncio.Lock()
        self._connection: AsyncConnection[Any] | None = None
        self._pid = os.getpid()
        self._closed = False

    async def insert(self, row: Row) -> int:
        """Insert and commit one row; its id."""
        async with self._lock, self._ready() as connection:
            with translating():
                async with _async_unit(connection, row):
                    return await AsyncPsycopgHandle(connection, self._schema).insert(row)

    async def insert_many(self, rows: Sequence[Row]) -> list[int]:
        """Insert and commit some rows, all or none; their ids, in the same order."""
        async with self._lock, self._ready() as connection:
            with translating():
                async with connection.transaction():
                    return await AsyncPsycopgHandle(connection, self._schema).insert_many(rows)

    async def close(self) -> None:
        """Close the connection."""
        async with self._lock:
            self._closed = True
            if self._connection is not None and self._pid == os.getpid():
                await self._connection.close()

            self._connection = None

    @asynccontextmanager
    async def _ready(self) -> AsyncIterator[AsyncConnection[Any]]:
        _refuse_closed(self._closed)
        if self._pid != os.getpid():
            self._connection = None

        if self._connection is not None and not _is_usable(self._connection):
            await self._connection.close()
            self._connection = None

        if self._connection is None:
            self._pid = os.getpid()
            self._connection = await self._open()

        yield self._connection

    async def _open(self) -> AsyncConnection[Any]:
        try:
            return await AsyncConnection.connect(**self._address.parameters)
        except psycopg.OperationalError as error:
            raise _unreachable(error, self._address) from None

    def __repr__(self) -> str:
        return repr(self._address)


class Pooled:
    """A pool of psycopg connections. It stays the caller's: they open and close it."""

    def __init__(self, pool: Any, schema: str) -> None:
        self._pool = pool
        self._schema = schema

    def insert(self, row: Row) -> int:
        """Insert and commit one row; its id."""
        with translating(), self._lend() as connection, connection.transaction():
            return PsycopgHandle(connection, self._schema).insert(row)

    def insert_many(self, rows: Sequence[Row]) -> list[int]:
        """Insert and commit some rows, all or none; their ids, in the same order."""
        with translating(), self._lend() as connection, connection.transaction():
            return PsycopgHandle(connection, self._schema).insert_many(rows)

    def close(self) -> None:
        """Nothing to do: the pool is not ours."""

    def _lend(self) -> Any:
        lent = self._pool.connection()
        if not hasattr(lent, "__enter__"):
            raise _misfit(self._pool, "Use AsyncClient with an asynchronous pool.")

        return lent

    def __repr__(self) -> str:
        return type(self._pool).__name__


class AsyncPooled:
    """An asynchronous pool of psycopg connections. It stays the caller's."""

    def __init__(self, pool: Any, schema: str) -> None:
        self._pool = pool
        self._schema = schema

    async def insert(self, row: Row) -> int:
        """Insert and commit one row; its id."""
        with translating():
            async with self._lend() as connection, connection.transaction():
                return await AsyncPsycopgHandle(connection, self._schema).insert(row)

    async def insert_many(self, rows: Sequence[Row]) -> list[int]:
        """Insert and commit some rows, all or none; their ids, in the same order."""
        with translating():
            async with self._lend() as connection, connection.transaction():
                return await AsyncPsycopgHandle(connection, self._schema).insert_many(rows)

    async def close(self) -> None:
        """Nothing to do: the pool is not ours."""

    def _lend(self) -> Any:
        lent = self._pool.connection()
        if not hasattr(lent, "__aenter__"):
            raise _misfit(self._pool, "Use Client with a synchronous pool.")

        return lent

    def __repr__(self) -> str:
        return type(self._pool).__name__


def _unit(connection: Connection[Any], row: Row) -> AbstractContextManager[Any]:
    """What one statement needs, or the several that a dedup key may take."""
    return nullcontext() if row.once is None else connection.transaction()


def _async_unit(connection: AsyncConnection[Any], row: Row) -> AbstractAsyncContextManager[Any]:
    return nullcontext() if row.once is None else connection.transaction()


@contextmanager
def translating() -> Iterator[None]:
    """Errors of the driver that mean something here leave as errors of this library."""
    try:
        yield
    except psycopg.Error as error:
        meaning = _lost(error) or translate(error)
        if meaning is None:
            raise

        raise meaning from error


def _lost(error: psycopg.Error) -> OutboxError | None:
    # 57P01 to 57P03: the server was told to end the session. No code: it just ended.
    ended = error.sqlstate is None or error.sqlstate.startswith(("57P0", "08"))
    if not isinstance(error, psycopg.OperationalError) or not ended:
        return None

    return SourceUnavailable(
        f"the connection was lost: the job may be committed, or not ({_one_line(str(error))})",
        hint="Trying again may enqueue it twice; given tx, it shares the fate of your transaction.",
    )


def _is_usable(connection: BaseConnection[Any]) -> bool:
    """Whether it is open, idle, and the server has said nothing since.

    What a server has to say to an idle session is mostly that it ends it. To
    see that now is what allows to connect again: nothing was sent yet.
    """
    if connection.closed or connection.pgconn.transaction_status != TransactionStatus.IDLE:
        return False

    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return not poll.poll(0)


def _unreachable(error: psycopg.OperationalError, address: Address) -> SourceUnavailable:
    return SourceUnavailable(f"{_one_line(address.strike_out(str(error)))} (nothing was sent)")


def _refuse_closed(closed: bool) -> None:
    if closed:
        raise SettingsError(
            "the client was closed", hint="Make another one, or give tx: that works as before."
        )


def _misfit(pool: object, hint: str) -> SettingsError:
    return SettingsError(f"conninfo_or_pool: a {type(pool).__name__} does not fit", hint=hint)


def _one_line(text: str) -> str:
    return " ".join(text.split())
