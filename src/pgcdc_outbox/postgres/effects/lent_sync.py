"""A connection as handlers in threads get it: everything but the end of its transaction."""

from collections.abc import Iterator
from typing import Any, NoReturn

from psycopg import AsyncConnection, Connection, Cursor

from pgcdc_outbox.postgres.effects.guard import Loan, check_text, refuse


class Twin(Connection[Any]):
    """The same connection to the server, for threads."""

    def __init__(self, owner: AsyncConnection[Any]) -> None:
        super().__init__(owner.pgconn)
        self._prepared = owner._prepared

    def __del__(self, *args: Any) -> None:
        # It is the owner's to close.
        pass


class LentConnection(Connection[Any]):
    """A `Connection` whose transaction belongs to the consumer. See `LentAsyncConnection`."""

    def __init__(self, owner: AsyncConnection[Any], loan: Loan) -> None:
        super().__init__(owner.pgconn)
        self._prepared = owner._prepared
        self.cursor_factory = _Cursor
        self.unsafe = Twin(owner)
        self.loan = loan
        self.watched = False
        """Whether a session uses it, whose rollbacks mean something."""
        self.undone = False
        """Whether that session believes to have rolled back."""

    def __del__(self, *args: Any) -> None:
        pass

    @property
    def in_use(self) -> bool:
        """Whether a statement runs on it right now."""
        return self.lock.locked() or self.unsafe.lock.locked()

    def wait(self, *args: Any, **options: Any) -> Any:
        """Everything that is sent goes through here."""
        self.loan.check()
        return super().wait(*args, **options)

    def commit(self) -> NoReturn:
        """Refused."""
        refuse("commit()")

    def rollback(self) -> NoReturn:
        """Refused."""
        refuse("rollback()")

    def close(self) -> NoReturn:
        """Refused."""
        refuse("close()")

    def transaction(self, *args: Any, **options: Any) -> NoReturn:
        """Refused: it is in a transaction."""
        refuse("transaction()")

    def set_autocommit(self, value: bool) -> NoReturn:
        """Refused."""
        refuse("set_autocommit()")

    def _set_autocommit(self, value: bool) -> NoReturn:
        refuse("autocommit")

    def tpc_begin(self, xid: Any) -> NoReturn:
        """Refused."""
        refuse("tpc_begin()")

    def tpc_prepare(self) -> NoReturn:
        """Refused."""
        refuse("tpc_prepare()")

    def tpc_commit(self, xid: Any = None) -> NoReturn:
        """Refused."""
        refuse("tpc_commit()")

    def tpc_rollback(self, xid: Any = None) -> NoReturn:
        """Refused."""
        refuse("tpc_rollback()")

    def __enter__(self) -> NoReturn:
        refuse("with connection")


class _Cursor(Cursor[Any]):
    def execute(self, query: Any, *args: Any, **options: Any) -> Any:
        check_text(query, self)
        return super().execute(query, *args, **options)

    def executemany(self, query: Any, *args: Any, **options: Any) -> None:
        check_text(query, self)
        super().executemany(query, *args, **options)

    def stream(self, query: Any, *args: Any, **options: Any) -> Iterator[Any]:
        check_text(query, self)
        return super().stream(query, *args, **options)
