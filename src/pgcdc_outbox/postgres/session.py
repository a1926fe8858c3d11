"""An ordinary connection of the consumer: one statement at a time, opened again when it breaks."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import anyio
import psycopg

from pgcdc_outbox.errors import SourceUnavailable
from pgcdc_outbox.postgres import statements
from pgcdc_outbox.postgres.hail import Door
from pgcdc_outbox.postgres.opening import connect, door, has_ended, is_local
from pgcdc_outbox.postgres.statements import Connection, Params, Row
from pgcdc_outbox.postgres.to_its_end import to_its_end

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
_WATCH_SECONDS = 10.0


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
        return self._connection is not None and not has_ended(self._connection)

    @property
    def lost(self) -> bool:
        """Whether an idle connection has ended. Does not wait, and does not ask the server."""
        if self._connection is None or self._lock.locked():
            return False

        return has_ended(self._connection)

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
            lambda connection: statements.rows(connection, statement, params, doing=doing),
            doing,
            within,
        )

    async def row(self, statement: str, params: Params = None, *, doing: str) -> Row:
        """Run a statement that gives exactly one row."""
        (row,) = await self.rows(statement, params, doing=doing)
        return row

    async def copy(self, statement: str, rows: bytes, *, doing: str) -> None:
        """Run one COPY, with rows that are spelled already; all of them, or none."""
        await self._take(
            lambda connection: statements.copy(connection, statement, rows, doing=doing),
            doing,
            STATEMENT_SECONDS,
        )

    async def load_by_index(
        self,
        statement: str,
        params: Params,
        *,
        locking: str,
        load: Callable[[list[Row]], None],
        doing: str,
        within: float = STATEMENT_SECONDS,
    ) -> None:
        """Load the rows of a statement that is to follow an index, whatever the statistics say.

        Of a table that has grown since it was analysed the planner expects few new
        rows, and would sort all of them for each page. ``locking`` is run before it, in
        the same transaction; ``load`` is given the rows a few at a time.
        """
        await self._take(
            lambda connection: statements.load_by_index(
                connection, statement, params, locking=locking, load=load, doing=doing
            ),
            doing,
            within,
        )

    async def in_snapshot(self, snapshot: str, statement: str, *, doing: str) -> Row:
        """Run a statement that gives one row, and sees what an exported snapshot sees."""
        return await self._take(
            lambda connection: statements.row_in_snapshot(
                connection, snapshot, statement, doing=doing
            ),
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
            # A statement cancelled half way leaves nobody knowing whether it was done.
            return await to_its_end(step, grace=_GRACE_SECONDS, give_up=self._give_up)

        raise SourceUnavailable(
            f"{doing}: the server gave no answer within {within:.0f} s",
            hint="It is tried again. Look for what blocks it in pg_stat_activity, "
            "or for a network that was cut.",
        )

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
        self.door = door(connection)
        # What is set behind a pooler stays with strangers.
        if self._prepares and not is_local(connection):
            await self._watch(connection, doing)

        return connection

    async def _watch(self, connection: Connection, doing: str) -> None:
        """Have the server notice soon when we are gone."""
        await self._in_time(
            lambda: statements.rows(connection, _WATCHED, None, doing=doing),
            doing,
            _WATCH_SECONDS,
        )

    async def _give_up(self) -> None:
        await self._cancel()
        self._drop()

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
