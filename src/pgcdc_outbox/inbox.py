"""Effects exactly once in another database: who has accepted a job says so in its own rows.

A handler that writes to the database of the outbox does not need this: there the consumer
commits what it wrote. Elsewhere a job may come twice, under the same id. Its first
acceptance is a row, in the transaction of its effects, and the second finds it.
"""

from collections.abc import Awaitable
from datetime import timedelta
from typing import Any, Final, NoReturn

from psycopg import AsyncConnection, AsyncCursor, BaseConnection, Connection, Cursor, sql
from psycopg.pq import TransactionStatus

from pgcdc_outbox.errors import JobInvalid, SettingsError, TransactionMissing

_ACCEPT: Final = (
    "insert into {table} (consumer, id) values ({consumer}, {id}) on conflict do nothing "
    "returning true"
)
_PURGE: Final = (
    "with gone as (delete from {table} where accepted_at < clock_timestamp() "
    "- {seconds} * interval '1 second' returning 1) select count(*) from gone"
)
_CREATION: Final = """\
create table {table} (
    consumer    text        not null,
    id          bigint      not null,
    accepted_at timestamptz not null default clock_timestamp(),
    primary key (consumer, id)
);
create index on {table} (accepted_at);
"""


class _Base:
    def __init__(self, *, schema: str = "public", table: str = "inbox") -> None:
        for field, name in (("schema", schema), ("table", table)):
            if not name or "\0" in name or len(name.encode()) > 63:
                raise SettingsError(f"{field}: {name!r} is not a name of 1 to 63 bytes")

        self._table = sql.Identifier(schema, table).as_string(None)

    def creation(self) -> str:
        """The statements that create the table, for a migration of your own."""
        return _CREATION.format(table=self._table)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._table})"


class Inbox(_Base):
    """The table of what was accepted, in the database that a handler writes to.

    ``connection`` is that of your own transaction: a psycopg Connection or Cursor, or a
    SQLAlchemy Session or Connection.
    """

    def accept(self, connection: Any, id: int, *, consumer: str = "default") -> bool:
        """Whether a job is new here. If it is, write that down, with your transaction.

        Somebody who accepts the same job at the same time waits for your transaction,
        and is told how it ended. ``consumer`` tells several handlers of one table apart,
        and several outboxes, whose ids are the same.

        Raises `TransactionMissing` if the connection would commit this on its own, and
        `JobInvalid` for what is no connection.
        """
        return bool(_run(connection, _ACCEPT, self._table, consumer=consumer, id=id))

    def purge(self, connection: Any, older_than: timedelta) -> int:
        """Forget what was accepted longer ago than that; how much it was.

        Keep it for as long as a job may come again: see the documentation.
        """
        seconds = _seconds(older_than)
        return int(_run(connection, _PURGE, self._table, seconds=seconds))


class AsyncInbox(_Base):
    """The same for asyncio: a psycopg AsyncConnection or AsyncCursor, an asyncpg connection,
    or a SQLAlchemy AsyncSession or AsyncConnection.
    """

    async def accept(self, connection: Any, id: int, *, consumer: str = "default") -> bool:
        """Whether a job is new here. As `Inbox.accept`."""
        return bool(await _run_async(connection, _ACCEPT, self._table, consumer=consumer, id=id))

    async def purge(self, connection: Any, older_than: timedelta) -> int:
        """Forget what was accepted longer ago than that. As `Inbox.purge`."""
        seconds = _seconds(older_than)
        return int(await _run_async(connection, _PURGE, self._table, seconds=seconds))


def _run(connection: Any, statement: str, table: str, **values: Any) -> Any:
    """The first value of the first row, if there is one."""
    if isinstance(connection, Cursor):
        connection = connection.connection

    if isinstance(connection, Connection):
        _require_transaction(connection)
        text = _formatted(statement, table, values)
        # A cursor of its own: neither the results of the caller's nor a row factory is in the way.
        row = Cursor(connection).execute(text, values).fetchone()
        return None if row is None else row[0]

    if not _is_of(connection, "sqlalchemy") or hasattr(connection, "sync_session"):
        _refuse(connection, "a psycopg Connection or Cursor, or a SQLAlchemy Session or Connection")

    return connection.execute(_clause(statement, table, values), values).scalar()


async def _run_async(connection: Any, statement: str, table: str, **values: Any) -> Any:
    if isinstance(connection, AsyncCursor):
        connection = connection.connection

    if isinstance(connection, AsyncConnection):
        _require_transaction(connection)
        cursor = AsyncCursor(connection)
        await cursor.execute(_formatted(statement, table, values), values)
        row = await cursor.fetchone()
        return None if row is None else row[0]

    if _is_of(connection, "asyncpg"):
        if not connection.is_in_transaction():
            _no_transaction(connection)

        places = {name: f"${number}" for number, name in enumerate(values, 1)}
        return await connection.fetchval(statement.format(table=table, **places), *values.values())

    if not _is_of(connection, "sqlalchemy"):
        _refuse(
            connection,
            "a psycopg AsyncConnection or AsyncCursor, an asyncpg Connection, or a SQLAlchemy "
            "AsyncSession or AsyncConnection",
        )

    result: Awaitable[Any] = connection.execute(_clause(statement, table, values), values)
    if not hasattr(result, "__await__"):
        _refuse(connection, "an asynchronous connection; Inbox is for this one")

    return (await result).scalar()


def _formatted(statement: str, table: str, values: dict[str, Any]) -> bytes:
    places = {name: f"%({name})s" for name in values}
    return statement.format(table=table.replace("%", "%%"), **places).encode()


def _clause(statement: str, table: str, values: dict[str, Any]) -> Any:
    from sqlalchemy import text

    places = {name: f":{name}" for name in values}
    return text(statement.format(table=table.replace(":", "\\:"), **places))


def _require_transaction(connection: BaseConnection[Any]) -> None:
    # Without autocommit the driver begins one before our statement.
    if connection.autocommit and connection.pgconn.transaction_status == TransactionStatus.IDLE:
        _no_transaction(connection)


def _no_transaction(connection: object) -> NoReturn:
    raise TransactionMissing(
        f"connection: the {type(connection).__name__} has no transaction open, so that the job "
        "would be accepted without its effects",
        hint="Open a transaction first, and do in it what the job asks for.",
    )


def _is_of(connection: object, package: str) -> bool:
    kinds = type(connection).__mro__
    return any(kind.__module__.partition(".")[0] == package for kind in kinds)


def _refuse(connection: object, accepted: str) -> NoReturn:
    kind = type(connection)
    raise JobInvalid(
        f"connection: a {kind.__module__}.{kind.__qualname__} is given; accepted is {accepted}",
        hint="Give the connection or session that your own statements run on.",
    )


def _seconds(older_than: timedelta) -> float:
    if older_than < timedelta(0):
        raise SettingsError("older_than: it is below nothing")

    return older_than.total_seconds()
