"""Handles of psycopg: connections, cursors and transactions, sync and async.

Each statement has a plain cursor of ours, so that neither the results of the
caller's cursor nor a row factory get in the way.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from psycopg import AsyncConnection, AsyncCursor, BaseConnection, Connection, Cursor
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from pgcdc_outbox.errors import TransactionMissing
from pgcdc_outbox.postgres.producer.enqueue import Row
from pgcdc_outbox.postgres.producer.handles.beside import Beside
from pgcdc_outbox.postgres.producer.handles.copying import copies
from pgcdc_outbox.postgres.producer.handles.once import (
    Found,
    has_keys,
    insert_mixed,
    insert_mixed_async,
    insert_once,
    insert_once_async,
)
from pgcdc_outbox.postgres.producer.handles.placing import place
from pgcdc_outbox.postgres.producer.handles.statements import Statement, formatted

_BESIDE: Final = Beside[Cursor[Any]](Cursor)
_ASYNC_BESIDE: Final = Beside[AsyncCursor[Any]](AsyncCursor)


class PsycopgHandle:
    """A psycopg connection, in whatever transaction it is."""

    __slots__ = ("_connection", "_schema", "_statements", "_theirs")

    def __init__(self, connection: Connection[Any], schema: str, theirs: Any = None) -> None:
        """``theirs`` is the cursor of that connection that the caller gave, if it was one."""
        self._connection = connection
        self._theirs = theirs
        self._schema = schema
        self._statements = formatted(schema)

    def insert(self, row: Row) -> int:
        """Insert one row; its id."""
        if row.once is not None:
            return insert_once(row, self._statements, self._ask)

        statement = self._statements.of(row)
        cursor = _BESIDE.take(self._theirs, self._connection)
        found = cursor.execute(statement.text, statement.values_of(row)).fetchone()
        _BESIDE.give_back(self._theirs, cursor)
        return _only(found)

    def insert_many(self, rows: Sequence[Row]) -> list[int]:
        """Insert some rows, at least one; their ids, in the same order."""
        if has_keys(rows):
            return insert_mixed(rows, self._statements, self._ask, self._copy)

        return self._copy(rows)

    def _ask(self, statement: Statement, arguments: Mapping[str, Any]) -> Found:
        cursor = Cursor(self._connection, row_factory=tuple_row)
        cursor.execute(statement.text, statement.values(arguments))
        return None if cursor.description is None else cursor.fetchone()

    def _copy(self, rows: Sequence[Row]) -> list[int]:
        take = self._statements.take_ids
        arguments = take.values({"sequence": self._statements.sequence, "count": len(rows)})
        cursor = Cursor(self._connection, row_factory=tuple_row)
        ids, clock_us = cursor.execute(take.text, arguments).fetchall()[0]
        placing = place(rows, ids, clock_us)
        for part in copies(placing, _encoding(self._connection)):
            with cursor.copy(part.statement(self._schema)) as copy:
                for chunk in part.chunks():
                    copy.write(chunk)

        return placing.ids


class AsyncPsycopgHandle:
    """An asynchronous psycopg connection, in whatever transaction it is."""

    __slots__ = ("_connection", "_schema", "_statements", "_theirs")

    def __init__(self, connection: AsyncConnection[Any], schema: str, theirs: Any = None) -> None:
        """``theirs`` is the cursor of that connection that the caller gave, if it was one."""
        self._connection = connection
        self._theirs = theirs
        self._schema = schema
        self._statements = formatted(schema)

    async def insert(self, row: Row) -> int:
        """Insert one row; its id."""
        if row.once is not None:
            return await insert_once_async(row, self._statements, self._ask)

        statement = self._statements.of(row)
        cursor = _ASYNC_BESIDE.take(self._theirs, self._connection)
        await cursor.execute(statement.text, statement.values_of(row))
        found = await cursor.fetchone()
        _ASYNC_BESIDE.give_back(self._theirs, cursor)
        return _only(found)

    async def insert_many(self, rows: Sequence[Row]) -> list[int]:
        """Insert some rows, at least one; their ids, in the same order."""
        if has_keys(rows):
            return await insert_mixed_async(rows, self._statements, self._ask, self._copy)

        return await self._copy(rows)

    async def _ask(self, statement: Statement, arguments: Mapping[str, Any]) -> Found:
        cursor = AsyncCursor(self._connection, row_factory=tuple_row)
        await cursor.execute(statement.text, statement.values(arguments))
        return None if cursor.description is None else await cursor.fetchone()

    async def _copy(self, rows: Sequence[Row]) -> list[int]:
        take = self._statements.take_ids
        arguments = take.values({"sequence": self._statements.sequence, "count": len(rows)})
        cursor = AsyncCursor(self._connection, row_factory=tuple_row)
        await cursor.execute(take.text, arguments)
        ((ids, clock_us),) = await cursor.fetchall()
        placing = place(rows, ids, clock_us)
        for part in copies(placing, _encoding(self._connection)):
            async with cursor.copy(part.statement(self._schema)) as copy:
                for chunk in part.chunks():
                    await copy.write(chunk)

        return placing.ids


def join(tx: Any, schema: str) -> PsycopgHandle:
    """Join the transaction of a Connection, Cursor or Transaction."""
    connection = tx if isinstance(tx, Connection) else tx.connection
    _require_transaction(connection)
    return PsycopgHandle(connection, schema, tx if isinstance(tx, Cursor) else None)


def join_async(tx: Any, schema: str) -> AsyncPsycopgHandle:
    """Join the transaction of an AsyncConnection, AsyncCursor or AsyncTransaction."""
    connection = tx if isinstance(tx, AsyncConnection) else tx.connection
    _require_transaction(connection)
    return AsyncPsycopgHandle(connection, schema, tx if isinstance(tx, AsyncCursor) else None)


def _require_transaction(connection: BaseConnection[Any]) -> None:
    # Without autocommit, psycopg begins one before our statement.
    if connection.autocommit and connection.pgconn.transaction_status == TransactionStatus.IDLE:
        raise TransactionMissing(
            f"tx: the {type(connection).__name__} is in autocommit mode, with no transaction open",
            hint="Use `with connection.transaction():`, or leave tx out to commit the job alone.",
        )


def _encoding(connection: BaseConnection[Any]) -> str:
    encoding = connection.info.encoding
    # SQL_ASCII: the server takes any bytes; psycopg sends UTF-8 too.
    return "utf-8" if encoding == "ascii" else encoding


def _only(found: tuple[Any, ...] | None) -> int:
    assert found is not None, "an insert with returning gives a row"
    number: int = found[0]
    return number
