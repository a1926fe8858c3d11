"""Statements on a connection of asyncio: their rows, or an error of this library."""

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg import sql

from pgcdc_outbox.postgres.sqlstate import map_error

Params = Mapping[str, Any] | Sequence[Any] | None
Row = tuple[Any, ...]
Connection = psycopg.AsyncConnection[Row]


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


async def rows_by_index(
    connection: Connection, statement: str, params: Params, *, locking: str, doing: str
) -> list[Row]:
    """Its rows, found with an index, whatever the statistics say.

    ``locking`` is run before it, in the same transaction.
    """
    try:
        # For this transaction alone: the session may be lent to others.
        async with connection.transaction():
            await connection.execute(
                "select set_config(name, 'off', true) from unnest("
                "array['enable_seqscan', 'enable_bitmapscan', 'enable_sort']) as name"
            )
            await connection.execute(locking.encode(), {})
            return await rows(connection, statement, params, doing=doing)
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
