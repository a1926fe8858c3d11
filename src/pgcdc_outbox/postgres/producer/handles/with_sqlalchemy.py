"""Handles of SQLAlchemy: sessions and connections, sync and async, on any driver.

Statements go through the session or connection itself, so that its autobegin,
savepoints and events apply. Imported only once somebody hands one over.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, Final

from sqlalchemy import TextClause, text

from pgcdc_outbox.errors import JobInvalid, TransactionMissing
from pgcdc_outbox.postgres.producer.enqueue import Row
from pgcdc_outbox.postgres.producer.handles.once import (
    Found,
    has_keys,
    insert_mixed,
    insert_once,
)
from pgcdc_outbox.postgres.producer.handles.placing import Placed, Placing, place
from pgcdc_outbox.postgres.producer.handles.statements import Statement, Statements, named

_CHUNK_ROWS: Final = 10_000


class SqlalchemyHandle:
    """A Session, scoped_session or Connection."""

    __slots__ = ("_executor", "_statements")

    def __init__(self, executor: Any, schema: str) -> None:
        self._executor = executor
        self._statements = named(schema)

    def insert(self, row: Row) -> int:
        """Insert one row; its id."""
        if row.once is not None:
            return insert_once(row, self._statements, self._ask)

        statement = self._statements.of(row)
        number: int = self._executor.execute(
            _clause(statement), _arguments(statement, row)
        ).scalar_one()
        return number

    def insert_many(self, rows: Sequence[Row]) -> list[int]:
        """Insert some rows, at least one; their ids, in the same order."""
        if has_keys(rows):
            return insert_mixed(rows, self._statements, self._ask, self._insert_lists)

        return self._insert_lists(rows)

    def _ask(self, statement: Statement, arguments: Mapping[str, Any]) -> Found:
        result = self._executor.execute(_clause(statement), _chosen(statement, arguments))
        return tuple(result.one()) if result.returns_rows else None

    def _insert_lists(self, rows: Sequence[Row]) -> list[int]:
        arguments = {"sequence": self._statements.sequence, "count": len(rows)}
        taken = self._executor.execute(_clause(self._statements.take_ids), arguments)
        placing = place(rows, *taken.one())
        for statement, values in _inserts(placing, self._statements):
            self._executor.execute(_clause(statement), values)

        return placing.ids


class AsyncSqlalchemyHandle:
    """An AsyncSession, async_scoped_session or AsyncConnection.

    It does what the other handle does, on the synchronous object inside, in one
    greenlet for all of it: each costs as much as the rest of a small insert.
    """

    __slots__ = ("_executor", "_schema")

    def __init__(self, executor: Any, schema: str) -> None:
        self._executor = executor
        self._schema = schema

    async def insert(self, row: Row) -> int:
        """Insert one row; its id."""

        def insert(inner: Any) -> int:
            return join(inner, self._schema).insert(row)

        number: int = await self._executor.run_sync(insert)
        return number

    async def insert_many(self, rows: Sequence[Row]) -> list[int]:
        """Insert some rows, at least one; their ids, in the same order."""

        def insert_many(inner: Any) -> list[int]:
            return join(inner, self._schema).insert_many(rows)

        ids: list[int] = await self._executor.run_sync(insert_many)
        return ids


def join(tx: Any, schema: str) -> SqlalchemyHandle:
    """Join the transaction of a Session, scoped_session or Connection."""
    # A session begins here, if it has not yet: the statement would do the same.
    connection = tx.connection() if hasattr(tx, "get_bind") else tx
    _require_transaction(connection)
    return SqlalchemyHandle(tx, schema)


def join_async(tx: Any, schema: str) -> AsyncSqlalchemyHandle:
    """Join the transaction of an AsyncSession, async_scoped_session or AsyncConnection."""
    return AsyncSqlalchemyHandle(unscoped(tx), schema)


def unscoped(tx: Any) -> Any:
    """What runs synchronous code: the session of this scope, if it is one of several."""
    return tx if hasattr(tx, "run_sync") else tx()


def _require_transaction(connection: Any) -> None:
    if connection.dialect.name != "postgresql":
        raise JobInvalid(
            f"tx: it is bound to {connection.dialect.name}, and the outbox is in PostgreSQL"
        )

    # Only looked at. Every driver that SQLAlchemy has for PostgreSQL tells its mode here.
    if getattr(connection.connection.dbapi_connection, "autocommit", False) is True:
        raise TransactionMissing(
            "tx: the SQLAlchemy connection is in AUTOCOMMIT mode: each statement commits alone",
            hint="Use an engine without isolation_level='AUTOCOMMIT', or leave tx out.",
        )


@lru_cache(maxsize=1024)
def _clause(statement: Statement) -> TextClause:
    return text(statement.text)


def _chosen(statement: Statement, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: arguments[name] for name in statement.names}


def _arguments(statement: Statement, row: Row) -> dict[str, Any]:
    return dict(zip(statement.names, statement.values_of(row), strict=True))


def _inserts(
    placing: Placing, statements: Statements
) -> Iterator[tuple[Statement, dict[str, list[Any]]]]:
    """The statements that insert all of it, a bounded number of jobs each."""
    for statement, jobs in (
        (statements.many_immediate, placing.immediate),
        (statements.many_scheduled, placing.scheduled),
    ):
        remaining = iter(jobs)
        while chunk := list(islice(remaining, _CHUNK_ROWS)):
            yield statement, _columns(statement, chunk)


def _columns(statement: Statement, jobs: Sequence[Placed]) -> dict[str, list[Any]]:
    columns = zip(*map(statement.values_of, jobs), strict=True)
    return dict(zip(statement.names, map(list, columns), strict=True))
