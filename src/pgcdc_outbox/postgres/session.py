"""An ordinary connection of the consumer: one statement at a time, opened again when it breaks."""

import select
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import anyio
import psycopg
from anyio import to_thread
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgcdc_outbox.errors import SourceUnavailable
from pgcdc_outbox.postgres.conninfo import parse
from pgcdc_outbox.postgres.hail import Door
from pgcdc_outbox.postgres.refusal import explain
from pgcdc_outbox.postgres.sqlstate import first_line, map_error

Params = Mapping[str, Any] | Sequence[Any] | None
Row = tuple[Any, ...]
Connection = psycopg.AsyncConnection[Row]
T = TypeVar("T")

# How long a statement may go on after its task was cancelled.
_GRACE_SECONDS = 2.0

# How long a statement may take. It has to be far more than any needs that is not in
# trouble: one that is given up leaves nobody knowing whether it was done.
STATEMENT_SECONDS = 60.0
_CANCEL_SECONDS = 2

# Our end is told to the server by its own TCP, within about ten seconds: nobody else can
# take the lock of a session that the server believes to live.
_WATCHED = (
    "select set_config('tcp_keepalives_idle', '4', false), "
    "set_config('tcp_keepalives_interval', '2', false), "
    "set_config('tcp_keepalives_count', '3', false), "
    "set_config('tcp_user_timeout', '10000', false)"
)

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
    One that is not answered in time loses its connection, too: it may be cut.
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
        self.door: Door | None = None
        """The very server that we are, or were, connected to."""

    @property
    def backend_pid(self) -> int:
        """The server's process, 0 when not connected."""
        return 0 if self._connection is None else self._connection.info.backend_pid

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, as far as that can be told without asking the server."""
        return self._connection is not None and not _has_ended(self._connection)

    @property
    def lost(self) -> bool:
        """Whether an idle connection has ended. Does not wait, and does not ask the server."""
        if self._connection is None or self._lock.locked():
            return False

        return _has_ended(self._connection)

    async def rows(
        self,
        statement: str,
        params: Params = None,
        *,
        doing: str,
        within: float = STATEMENT_SECONDS,
    ) -> list[Row]:
        """Run one statement; its rows, if it has any. Raises `OutboxError`."""
        return await self._take(
            lambda connection: _rows(connection, statement, params, doing), doing, within
        )

    async def row(self, statement: str, params: Params = None, *, doing: str) -> Row:
        """Run a statement that gives exactly one row."""
        (row,) = await self.rows(statement, params, doing=doing)
        return row

    async def by_index(
        self,
        statement: str,
        params: Params,
        *,
        locking: str,
        doing: str,
        within: float = STATEMENT_SECONDS,
    ) -> list[Row]:
        """The rows of a statement that is to follow an index, whatever the statistics say.

        Of a table that has grown since it was analysed the planner expects few new
        rows, and would sort all of them for each page. ``locking`` is run before it, in
        the same transaction.
        """
        return await self._take(
            lambda connection: _by_index(connection, statement, params, locking, doing),
            doing,
            within,
        )

    async def in_snapshot(self, snapshot: str, statement: str, *, doing: str) -> Row:
        """Run a statement that gives one row, and sees what an exported snapshot sees."""
        return await self._take(
            lambda connection: _in_snapshot(connection, snapshot, statement, doing),
            doing,
            STATEMENT_SECONDS,
        )

    async def encoding(self, *, doing: str) -> str:
        """How the database keeps text, in the server's word for it, such as ``UTF8``."""
        async with self._lock:
            connection = await self._connected(doing)
            return str(connection.info.parameter_status("server_encoding"))

    def close(self) -> None:
        """Close the connection, if it is open."""
        self._drop()

    async def rest(self) -> None:
        """Close the connection as soon as no statement runs on it; the next one may connect."""
        async with self._lock:
            self._drop()

    async def _take(
        self, step: Callable[[Connection], Awaitable[T]], doing: str, within: float
    ) -> T:
        async with self._lock:
            connection = await self._connected(doing)
            return await self._in_time(lambda: step(connection), doing, within)

    async def _in_time(self, step: Callable[[], Awaitable[T]], doing: str, within: float) -> T:
        with anyio.move_on_after(within):
            return await self._to_its_end(step)

        raise SourceUnavailable(
            f"{doing}: the server gave no answer within {within:.0f} s",
            hint="It is tried again. Look for what blocks it in pg_stat_activity, "
            "or for a network that was cut.",
        )

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
                    await self._cancel()
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

        connection = await connect(
            self._conninfo, name=self._name, options=self._options, doing=doing
        )
        if not self._prepares:
            connection.prepare_threshold = None

        self._connection = connection
        info = connection.info
        self.door = Door(
            host=info.host if _is_local(info.host) else info.hostaddr or info.host,
            port=info.port,
            user=info.user,
            database=info.dbname,
            tls=bool(connection.pgconn.ssl_in_use),
        )
        # What is set behind a pooler stays with strangers.
        if self._prepares and not _is_local(info.host):
            await self._in_time(lambda: _rows(connection, _WATCHED, None, doing), doing, 10.0)

        return connection

    async def _cancel(self) -> None:
        """Ask the server to give up the statement: it would not notice that we are gone."""
        connection = self._connection
        if connection is not None and not connection.closed:
            with anyio.move_on_after(_CANCEL_SECONDS, shield=True), suppress(psycopg.Error):
                await connection.cancel_safe(timeout=_CANCEL_SECONDS)

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


async def _by_index(
    connection: Connection, statement: str, params: Params, locking: str, doing: str
) -> list[Row]:
    try:
        # For this transaction alone: the session may be lent to others.
        async with connection.transaction():
            await connection.execute(
                "select set_config(name, 'off', true) from unnest("
                "array['enable_seqscan', 'enable_bitmapscan', 'enable_sort']) as name"
            )
            await connection.execute(locking.encode())
            return await _rows(connection, statement, params, doing)
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


def _is_local(host: str) -> bool:
    """Whether it is the folder of a Unix socket, in the file system or in the abstract."""
    return host.startswith(("/", "@"))


def _has_ended(connection: Connection) -> bool:
    pgconn = connection.pgconn
    if connection.closed:
        return True

    poll = select.poll()
    poll.register(pgconn.socket, select.POLLIN)
    if not poll.poll(0):
        return False

    try:
        # A server says little to an idle session, and mostly that it ends it.
        pgconn.consume_input()
        pgconn.is_busy()
    except psycopg.Error:
        return True

    return connection.closed


async def connect(
    conninfo: str, *, name: str, doing: str, options: str = "", **more: Any
) -> Connection:
    """Open a connection in autocommit mode. Raises `OutboxError`, without the password."""
    given = parse(conninfo)
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

    conninfo = make_conninfo(**merged)
    try:
        return await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
    except psycopg.OperationalError as error:
        text = f"{doing}: {first_line(str(error))}"
        raise await to_thread.run_sync(
            explain, error, text, conninfo, abandon_on_cancel=True
        ) from error
