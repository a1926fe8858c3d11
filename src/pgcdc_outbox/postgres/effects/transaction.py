"""One transaction after another on a connection that is kept, each in parts that can be undone."""

import os
import socket
from contextlib import suppress
from typing import Any, Final

import psycopg
from psycopg.pq import ConnStatus, TransactionStatus

from pgcdc_outbox.errors import NotCommitted, OutboxError, TransactionOwned
from pgcdc_outbox.postgres import statements
from pgcdc_outbox.postgres.opening import has_ended
from pgcdc_outbox.postgres.sqlstate import map_error
from pgcdc_outbox.postgres.statements import Connection, Params, Row

_BEGIN: Final = b"begin; select pg_current_xact_id()::text; savepoint pgcdc_part"
_ENTER: Final = b"savepoint pgcdc_part"
_KEEP: Final = b"release savepoint pgcdc_part"
_UNDO: Final = b"rollback to savepoint pgcdc_part; release savepoint pgcdc_part"
_DOING: Final = "write together with the outcome"


class CommitUnknown(Exception):
    """The connection was lost while the commit was under way."""


class Transaction:
    """What the consumer does with the connection, and nobody else may."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.xid = ""
        """Names the transaction; empty while there is none."""
        self._failure: Exception | None = None

    @property
    def usable(self) -> bool:
        """Whether another transaction may be begun."""
        return not has_ended(self.connection) and self._status is TransactionStatus.IDLE

    async def enter(self) -> None:
        """Begin a part, and the transaction if there is none. Raises `OutboxError`."""
        self._raise_failure()
        try:
            if self.xid:
                await self.connection.execute(_ENTER)
            else:
                cursor = await self.connection.execute(_BEGIN)
                cursor.nextset()
                ((self.xid,),) = await cursor.fetchall()
        except psycopg.Error as error:
            self._failure = error
            raise map_error(error, doing=_DOING) from error

    async def keep(self) -> None:
        """End a part. Raises if what it did cannot be kept."""
        if self._status is TransactionStatus.IDLE:
            self._failure = _ended_by_handler()
            raise self._failure

        if self._status is TransactionStatus.INERROR:
            raise TransactionOwned(
                "a statement of this call failed, and the call went on as if it had not",
                hint="Let the error of the database go on, or set a savepoint with "
                "`connection.unsafe.transaction()` around what may fail.",
            )

        try:
            await self.connection.execute(_KEEP)
        except psycopg.Error as error:
            if not self._is_savepoint_gone(error):
                self._failure = error
                raise map_error(error, doing=_DOING) from error

            self._failure = _ended_by_handler()
            raise self._failure from error

    async def undo(self) -> None:
        """End a part, and undo what it did. Does not raise: what is lost is told later."""
        if self._failure is not None:
            return

        try:
            await self.connection.execute(_UNDO)
        except psycopg.Error as error:
            self._failure = _ended_by_handler() if self._is_savepoint_gone(error) else error
        except BaseException:
            self.cut()
            raise

    async def check(self) -> None:
        """Raise `NotCommitted` unless it is the transaction that was begun."""
        self._raise_failure()
        (xid,) = await self.row("select pg_current_xact_id_if_assigned()::text", doing=_DOING)
        if xid != self.xid or self._status is not TransactionStatus.INTRANS:
            raise _ended_by_handler()

    async def commit(self) -> None:
        """Commit. Raises `NotCommitted`, or `CommitUnknown` if the connection is lost."""
        try:
            cursor = await self.connection.execute(b"commit")
        except psycopg.Error as error:
            if self._is_open and self._status is TransactionStatus.IDLE:
                self.xid = ""
                raise NotCommitted(f"{_DOING}: {error}", cause=error) from error

            raise CommitUnknown from error

        self.xid = ""
        if cursor.statusmessage != "COMMIT":
            raise NotCommitted(f"{_DOING}: rolled back", cause=_ended_by_handler())

    async def rollback(self) -> None:
        """Roll back, if there is something to roll back. Does not raise `OutboxError`."""
        self.xid = ""
        self._failure = None
        if self._is_open and self._status is not TransactionStatus.IDLE:
            with suppress(psycopg.Error):
                await self.connection.execute(b"rollback")

    def cut(self) -> None:
        """End the connection, also while somebody in another thread waits on it.

        The socket is shut down, and not closed: they are to see that it has ended.
        """
        self._failure = self._failure or psycopg.OperationalError(
            "the connection was given up, because the call did not let go of it"
        )
        if self._is_open:
            with (
                suppress(OSError),
                socket.socket(fileno=os.dup(self.connection.pgconn.socket)) as end,
            ):
                end.shutdown(socket.SHUT_RDWR)

    async def close(self) -> None:
        """Close the connection; what was not committed is rolled back by the server."""
        await self.connection.close()

    async def row(self, statement: str, params: Params = None, *, doing: str) -> Row:
        """Run a statement of ours, in the transaction, that gives exactly one row."""
        (row,) = await self.rows(statement, params, doing=doing)
        return row

    async def rows(self, statement: str, params: Params = None, *, doing: str) -> list[Row]:
        """Run a statement of ours in the transaction; its rows, if it has any."""
        return await statements.rows(self.connection, statement, params, doing=doing)

    async def encoding(self, *, doing: str) -> str:
        """How the database keeps text."""
        return str(self.connection.info.parameter_status("server_encoding"))

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise NotCommitted(f"{_DOING}: {self._failure}", cause=self._failure)

    def _is_savepoint_gone(self, error: psycopg.Error) -> bool:
        # No such savepoint; or no transaction for it to be in.
        return error.sqlstate in ("3B001", "25P01") and self._is_open

    @property
    def _status(self) -> TransactionStatus:
        return TransactionStatus(self.connection.pgconn.transaction_status)

    @property
    def _is_open(self) -> bool:
        return bool(self.connection.pgconn.status == ConnStatus.OK)


def cause_of(error: OutboxError) -> Exception:
    """The error of the driver behind one of ours; that one, if there is none."""
    cause: Any = error.cause if isinstance(error, NotCommitted) else error.__cause__
    while isinstance(cause, OutboxError) and cause.__cause__ is not None:
        cause = cause.__cause__

    return cause if isinstance(cause, Exception) else error


def _ended_by_handler() -> TransactionOwned:
    return TransactionOwned(
        "the call has ended a transaction that belongs to the consumer: what it committed "
        "there stays, whatever becomes of the job"
    )
