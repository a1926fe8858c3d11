"""Statements on a connection of asyncio: their rows, or an error of this library."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.types.numeric import Int8BinaryLoader

from pgcdc_outbox.postgres.sqlstate import map_error

Params = Mapping[str, Any] | Sequence[Any] | None
Row = tuple[Any, ...]
Connection = psycopg.AsyncConnection[Row]

# Types that are loaded as the number that they are sent as, which the driver does in C:
# timestamptz, microseconds since 2000, and xid8.
_EIGHT_BYTES: Final = (1184, 5069)

# Fewer rows than the tuples at which the garbage collector of Python looks: they are gone
# again before it does.
_LOADED_AT_ONCE: Final = 512

_BY_INDEX: Final = (
    "set local enable_seqscan = off; set local enable_bitmapscan = off; "
    "set local enable_sort = off; "
)


async def rows(connection: Connection, statement: str, params: Params, *, doing: str) -> list[Row]:
    """Its rows, if it has any. Raises `OutboxError`, as the others do."""
    try:
        cursor = await connection.execute(statement.encode(), params or {}, binary=True)
        return await cursor.fetchall() if cursor.description else []
    except psycopg.Error as error:
        raise map_error(error, doing=doing) from error


async def copy(connection: Connection, statement: str, rows: bytes, *, doing: str) -> None:
    """Copy rows that are spelled already to the server, all or none."""
    # The driver looks for no placeholders in a COPY, so a per cent sign is not doubled.
    spelled = statement.replace("%%", "%").encode()
    try:
        async with connection.cursor().copy(spelled) as stream:
            await stream.write(rows)
    except psycopg.Error as error:
        raise map_error(error, doing=doing) from error


async def load_by_index(
    connection: Connection,
    statement: str,
    params: Params,
    *,
    locking: str,
    load: Callable[[list[Row]], None],
    doing: str,
) -> None:
    """Load its rows, found with an index, whatever the statistics say; times and xids as numbers.

    ``locking`` is run before it, in the same transaction. ``load`` is given the rows a few
    at a time.
    """
    # In one message, for an answer takes a turn of the event loop, which whoever handles
    # the page before keeps busy.
    prepare = (_BY_INDEX + locking.replace("%%", "%")).encode()
    try:
        # For this transaction alone: the session may be lent to others.
        async with connection.transaction():
            await connection.execute(prepare, prepare=False)
            cursor = connection.cursor()
            for oid in _EIGHT_BYTES:
                cursor.adapters.register_loader(oid, Int8BinaryLoader)

            await cursor.execute(statement.encode(), params or {}, binary=True)

        while rows := await cursor.fetchmany(_LOADED_AT_ONCE):
            load(rows)
    except psycopg.Error as error:
        raise map_error(error, doing=doing) from error


async def row_in_snapshot(
    connection: Connection, snapshot: str, statement: str, *, doing: str
) -> Row:
    """Its one row, as an exported snapshot sees it."""
    try:
        async with connection.transaction():
            await connection.execute("set transaction isolation level repeatable read")
            await connection.execute(
                sql.SQL("set transaction snapshot {}").format(sql.Literal(snapshot))
            )
            cursor = await connection.execute(statement.encode())
            (row,) = await cursor.fetchall()
            return row
    except psycopg.Error as error:
        raise map_error(error, doing=doing) from error
