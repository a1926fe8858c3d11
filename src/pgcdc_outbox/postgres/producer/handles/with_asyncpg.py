"""The handle of asyncpg. It imports nothing of it: connections bring what is needed."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from pgcdc_outbox.errors import TransactionMissing
from pgcdc_outbox.postgres.producer.enqueue import Row
from pgcdc_outbox.postgres.producer.handles.copying import Copy, copies
from pgcdc_outbox.postgres.producer.handles.once import (
    Found,
    has_keys,
    insert_mixed_async,
    insert_once_async,
)
from pgcdc_outbox.postgres.producer.handles.placing import place
from pgcdc_outbox.postgres.producer.handles.statements import Statement, numbered


class AsyncpgHandle:
    """An asyncpg connection with a transaction open."""

    __slots__ = ("_connection", "_schema", "_statements")

    def __init__(self, connection: Any, schema: str) -> None:
        self._connection = connection
        self._schema = schema
        self._statements = numbered(schema)

    async def insert(self, row: Row) -> int:
        """Insert one row; its id."""
        if row.once is not None:
            return await insert_once_async(row, self._statements, self._ask)

        statement = self._statements.of(row)
        number: int = await self._connection.fetchval(statement.text, *statement.values_of(row))
        return number

    async def insert_many(self, rows: Sequence[Row]) -> list[int]:
        """Insert some rows, at least one; their ids, in the same order."""
        if has_keys(rows):
            return await insert_mixed_async(rows, self._statements, self._ask, self._copy)

        return await self._copy(rows)

    async def _ask(self, statement: Statement, arguments: Mapping[str, Any]) -> Found:
        found: Found = await self._connection.fetchrow(statement.text, *statement.values(arguments))
        return found

    async def _copy(self, rows: Sequence[Row]) -> list[int]:
        take = self._statements.take_ids
        arguments = take.values({"sequence": self._statements.sequence, "count": len(rows)})
        ids, clock_us = await self._connection.fetchrow(take.text, *arguments)
        placing = place(rows, ids, clock_us)
        for part in copies(placing):
            await self._connection.copy_to_table(
                part.table,
                source=_stream(part),
                columns=part.columns,
                schema_name=self._schema,
                format="binary",
            )

        return placing.ids


def join_async(tx: Any, schema: str) -> AsyncpgHandle:
    """Join the transaction of a connection, also of one that a pool lent."""
    if not tx.is_in_transaction():
        raise TransactionMissing(
            "tx: the asyncpg connection has no transaction open",
            hint="Use `async with connection.transaction():`, or leave tx out.",
        )

    return AsyncpgHandle(tx, schema)


async def _stream(part: Copy) -> AsyncIterator[bytes]:
    for chunk in part.chunks():
        yield chunk
