"""A connection of asyncio as handlers get it: everything but the end of its transaction."""

from collections.abc import AsyncIterator
from typing import Any, NoReturn

from psycopg import AsyncConnection, AsyncCursor, AsyncServerCursor

from pgcdc_outbox.postgres.effects.guard import Loan, check_text, refuse


class LentAsyncConnection(AsyncConnection[Any]):
    """An `AsyncConnection` whose transaction belongs to the consumer.

    It shares the connection to the server with others, and is told from them by
    its loan: when that is over it does nothing any more. ``unsafe`` is the
    connection without the guard. Who ends the transaction there breaks what the
    consumer promises, and the call fails.
    """

    def __init__(self, owner: AsyncConnection[Any], loan: Loan) -> None:
        super().__init__(owner.pgconn)
        # One connection has one set of prepared statements, and of names for them.
        self._prepared = owner._prepared
        self.cursor_factory = _Cursor
        self.server_cursor_factory = _ServerCursor
        self.unsafe = owner
        self.loan = loan
        self.watched = False
        """Whether a session uses it, whose rollbacks mean something."""
        self.undone = False
        """Whether that session believes to have rolled back."""

    def __del__(self, *args: Any) -> None:
        # It is not ours to close.
        pass

    @property
    def in_use(self) -> bool:
        """Whether a statement runs on it right now."""
        return bool(self.lock.locked())

    async def wait(self, *args: Any, **options: Any) -> Any:
        """Everything that is sent goes through here."""
        self.loan.check()
        return await super().wait(*args, **options)

    async def commit(self) -> NoReturn:
        """Refused."""
        refuse("commit()")

    async def rollback(self) -> NoReturn:
        """Refused."""
        refuse("rollback()")

    async def close(self) -> NoReturn:
        """Refused."""
        refuse("close()")

    def transaction(self, *args: Any, **options: Any) -> NoReturn:
        """Refused: it is in a transaction."""
        refuse("transaction()")

    async def set_autocommit(self, value: bool) -> NoReturn:
        """Refused."""
        refuse("set_autocommit()")

    def _set_autocommit(self, value: bool) -> NoReturn:
        refuse("autocommit")

    async def tpc_begin(self, xid: Any) -> NoReturn:
        """Refused."""
        refuse("tpc_begin()")

    async def tpc_prepare(self) -> NoReturn:
        """Refused."""
        refuse("tpc_prepare()")

    async def tpc_commit(self, xid: Any = None) -> NoReturn:
        """Refused."""
        refuse("tpc_commit()")

    async def tpc_rollback(self, xid: Any = None) -> NoReturn:
        """Refused."""
        refuse("tpc_rollback()")

    async def __aenter__(self) -> NoReturn:
        refuse("async with connection")


class _Cursor(AsyncCursor[Any]):
    async def execute(self, query: Any, *args: Any, **options: Any) -> Any:
        check_text(query, self)
        return await super().execute(query, *args, **options)

    async def executemany(self, query: Any, *args: Any, **options: Any) -> None:
        check_text(query, self)
        await super().executemany(query, *args, **options)

    def stream(self, query: Any, *args: Any, **options: Any) -> AsyncIterator[Any]:
        check_text(query, self)
        return super().stream(query, *args, **options)


class _ServerCursor(AsyncServerCursor[Any]):
    """Its query is part of a DECLARE: it cannot end anything."""
