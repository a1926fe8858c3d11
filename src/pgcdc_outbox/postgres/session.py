"""An ordinary connection of the consumer: one statement at a time, opened again when it breaks."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import anyio
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgcdc_outbox.errors import OutboxError, SourceUnavailable
from pgcdc_outbox.postgres.sqlstate import map_error

Params = Mapping[str, Any] | Sequence[Any] | None
Row = tuple[Any, ...]
Connection = psycopg.AsyncConnection[Row]
T = TypeVar("T")

# How long a statement may go on after its task was cancelled.
_GRACE_SECONDS = 2.0

# A half-open connection would otherwise hang a read for hours.
KEEPALIVE = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}


class Session:
    """Runs statements in autocommit mode on a connection of its own.

    A statement that fails because the connection broke is not repeated: only
    the caller knows whether that is safe. The next one connects again, unless
    the connection holds something that would be lost with it (``reconnects=False``).
    Without ``prepares`` no statement is left on the server, so that a pooler may
    be in between.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        name: str,
        options: str = "",
        reconnects: bool = True,
        prepares: bool = True,
    ) -> None:
        self._prepares = prepares
        self._reconnects = reconnects
        self._conninfo = conninfo
        self._name = name
        self._options = options
        self._lock = anyio.Lock()
        self._connection: Connection | None = None

    @property
    def backend_pid(self) -> int:
        """The server's process, 0 when not connected."""
        return 0 if self._connection is None else self._connection.info.backend_pid

    async def rows(self, statement: str, params: Params = None, *, doing: str) -> list[Row]:
        """Run one statement; its rows, if it has any. Raises `OutboxError`."""
        async with self._lock:
            connection = await self._connected(doing)
            return await self._to_its_end(lambda: _rows(connection, statement, params, doing))

    async def row(self, statement: str, params: Params = None, *, doing: str) -> Row:
        """Run a statement that gives exactly one row."""
        (row,) = await self.rows(statement, params, doing=doing)
        return row

    async def in_snapshot(self, snapshot: str, statement: str, *, doing: str) -> Row:
        """Run a statement that gives one row, and sees what an exported snapshot sees."""
        async with self._lock:
            connection = await self._connected(doing)
            return await self._to_its_end(
                lambda: _in_snapshot(connection, snapshot, statement, doing)
            )

    async def encoding(self, *, doing: str) -> str:
        """How the database keeps text, in the server's word for it, such as ``UTF8``."""
        async with self._lock:
            connection = await self._connected(doing)
            return str(connection.info.parameter_status("server_encoding"))

    def close(self) -> None:
        """Close the connection, if it is open."""
        self._drop()

    async def _to_its_end(self, step: Callable[[], Awaitable[T]]) -> T:
        """Take a step on the connection; when cancelled, let it end if it soon does.

        A statement cancelled half way leaves nobody knowing whether it was done.
        """
        finished = anyio.Event()
        scope = anyio.CancelScope(shield=True)
        result: list[T] = []
        failure: list[Exception] = []

        async def take() -> None:
            with scope:
                try:
                    result.append(await step())
                except Exception as error:
                    failure.append(error)

            finished.set()

        async with anyio.create_task_group() as group:
            group.start_soon(take)
            try:
                await finished.wait()
            except BaseException:
                with anyio.move_on_after(_GRACE_SECONDS, shield=True):
                    await finished.wait()

                if not finished.is_set():
                    self._drop()
                    scope.cancel()

                raise

        if failure:
            raise failure[0]

        return result[0]

    async def _connected(self, doing: str) -> Connection:
        if self._connection is not None and not self._connection.closed:
            return self._connection

        if self._connection is not None and not self._reconnects:
            raise SourceUnavailable(f"{doing}: the connection that holds the consumer was lost")

        self._connection = await connect(
            self._conninfo, name=self._name, options=self._options, doing=doing
        )
        if not self._prepares:
            self._connection.prepare_threshold = None

        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            # Not close(): that may wait for a server that does not answer.
            self._connection.pgconn.finish()


async def _rows(connection: Connection, statement: str, params: Params, doing: str) -> list[Row]:
    try:
        cursor = await connection.execute(statement.encode(), params or {}, binary=True)
        return await cursor.fetchall() if cursor.description else []
    except psycopg.Error as error:
        raise map_error(error, doing=doing) from error


async def _in_snapshot(connection: Connection, snapshot: str, statement: str, doing: str) -> Row:
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


async def connect(
    conninfo: str, *, name: str, doing: str, options: str = "", **more: Any
) -> Connection:
    """Open a connection in autocommit mode. Raises `OutboxError`, without the password."""
    try:
        given = psycopg.conninfo.conninfo_to_dict(conninfo)
        # Whatever the database has: the driver gives bytes for text in SQL_ASCII.
        merged: dict[str, Any] = {
            **KEEPALIVE,
            **given,
            "client_encoding": "UTF8",
            **more,
            "application_name": name,
        }
        if options:
            merged["options"] = " ".join(filter(None, (str(given.get("options", "")), options)))

        return await psycopg.AsyncConnection.connect(make_conninfo(**merged), autocommit=True)
    except psycopg.OperationalError as error:
        raise map_error(error, doing=doing) from error
    except psycopg.ProgrammingError:
        # The driver's text may quote the whole string, password included.
        raise OutboxError(
            f"{doing}: the connection string cannot be read",
            hint="Write it as `host=... dbname=...` or `postgresql://user@host/database`.",
        ) from None
