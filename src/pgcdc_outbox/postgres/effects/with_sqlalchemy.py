"""Sessions of SQLAlchemy on a lent connection. Imported when somebody asks for the first one.

A session flushes, and its connection thinks of itself as in a transaction that somebody
else has begun, which is true. Whatever SQLAlchemy wants of that transaction goes through
the dialect, so that is where it is stopped.
"""

from contextvars import ContextVar
from functools import cached_property
from typing import Any, Final, NoReturn

from anyio import to_thread
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from pgcdc_outbox.errors import TransactionOwned
from pgcdc_outbox.postgres.effects.guard import Loan, refuse
from pgcdc_outbox.postgres.effects.lent_async import LentAsyncConnection
from pgcdc_outbox.postgres.effects.lent_sync import LentConnection

# What the engine is to connect with, in this task or thread.
_lent: ContextVar[Any] = ContextVar("_lent")

_ENGINE: Final[dict[str, Any]] = {
    "poolclass": NullPool,
    "pool_reset_on_return": None,
    # To look for the type would begin a transaction of the driver's.
    "use_native_hstore": False,
}


class Engines:
    """Engines without a server of their own: they connect with what was lent."""

    @cached_property
    def sync(self) -> Any:
        """For sessions in threads."""
        engine = create_engine("postgresql+psycopg://", creator=lambda: _lent.get(), **_ENGINE)
        _take_over(engine.dialect)
        return engine

    @cached_property
    def asynchronous(self) -> Any:
        """For sessions of asyncio."""

        async def connect() -> Any:
            return _lent.get()

        engine = create_async_engine("postgresql+psycopg://", async_creator=connect, **_ENGINE)
        _take_over(engine.dialect)
        return engine


class SessionGuise:
    """A session for a thread, of the class that was asked for."""

    def __init__(self, kind: type[Session], engines: Engines, owner: Any, loan: Loan) -> None:
        self._kind = kind
        self._engines = engines
        self._driver = LentConnection(owner, loan)
        self._connection: Any = None
        self.object: Any = None

    @property
    def in_use(self) -> bool:
        """Whether a statement runs on it right now."""
        return self._driver.in_use

    async def open(self) -> None:
        """Make the session."""
        await to_thread.run_sync(self._open)

    async def flush(self) -> None:
        """Send what is not sent yet."""
        await to_thread.run_sync(self.object.flush)
        _check(self._driver)

    async def close(self) -> None:
        """Let go of it; nothing is sent."""
        await to_thread.run_sync(self._close)

    def _open(self) -> None:
        _lent.set(self._driver)
        self._connection = self._engines.sync.connect()
        self._connection.begin()
        self.object = _guarded(self._kind)(
            bind=self._connection, join_transaction_mode="rollback_only"
        )
        self.object.unsafe = self._driver.unsafe
        self._driver.watched = True

    def _close(self) -> None:
        self._kind.close(self.object)
        self._connection.close()


class AsyncSessionGuise:
    """A session of asyncio, of the class that was asked for."""

    def __init__(self, kind: type[AsyncSession], engines: Engines, owner: Any, loan: Loan) -> None:
        self._kind = kind
        self._engines = engines
        self._driver = LentAsyncConnection(owner, loan)
        self._connection: Any = None
        self.object: Any = None

    @property
    def in_use(self) -> bool:
        """Whether a statement runs on it right now."""
        return self._driver.in_use

    async def open(self) -> None:
        """Make the session."""
        _lent.set(self._driver)
        self._connection = await self._engines.asynchronous.connect()
        await self._connection.begin()
        self.object = _guarded_async(self._kind)(
            bind=self._connection,
            sync_session_class=_guarded(self._kind.sync_session_class),
            join_transaction_mode="rollback_only",
        )
        self.object.unsafe = self._driver.unsafe
        self._driver.watched = True

    async def flush(self) -> None:
        """Send what is not sent yet."""
        await self.object.flush()
        _check(self._driver)

    async def close(self) -> None:
        """Let go of it; nothing is sent."""
        self._kind.sync_session_class.close(self.object.sync_session)
        await self._connection.close()


def session_guise(
    kind: type, engines: Engines, owner: Any, loan: Loan
) -> SessionGuise | AsyncSessionGuise | None:
    """The guise of a class of sessions; None if it is none."""
    if issubclass(kind, AsyncSession):
        return AsyncSessionGuise(kind, engines, owner, loan)

    return SessionGuise(kind, engines, owner, loan) if issubclass(kind, Session) else None


def _check(driver: LentConnection | LentAsyncConnection) -> None:
    if driver.undone:
        raise TransactionOwned(
            "the session has rolled back, and the call went on as if it had not",
            hint="Let the error go on; or set a savepoint with `session.unsafe.transaction()`.",
        )


def _take_over(dialect: Any) -> None:
    """Let the dialect end nothing."""

    def do_commit(connection: Any) -> None:
        refuse("commit()")

    def do_rollback(connection: Any) -> None:
        # It is also how the session recovers from an error, which is to be told and not this.
        # It comes bare, adapted to asyncio, or as the pool hands it out.
        driver = getattr(connection, "driver_connection", connection)
        driver.undone = driver.watched

    def do_close(connection: Any) -> None:
        pass

    dialect.do_commit = do_commit
    dialect.do_rollback = do_rollback
    dialect.do_close = dialect.do_terminate = do_close


class _Guard:
    """Refuses what would begin or end the transaction."""

    def commit(self) -> NoReturn:
        refuse("commit()")

    def rollback(self) -> NoReturn:
        refuse("rollback()")

    def close(self) -> NoReturn:
        refuse("close()")

    def reset(self) -> NoReturn:
        refuse("reset()")

    def invalidate(self) -> NoReturn:
        refuse("invalidate()")

    def prepare(self) -> NoReturn:
        refuse("prepare()")

    def begin(self, nested: bool = False) -> NoReturn:
        refuse("begin_nested()" if nested else "begin()")

    def begin_nested(self) -> NoReturn:
        refuse("begin_nested()")

    def __enter__(self) -> NoReturn:
        refuse("with session")


class _AsyncGuard:
    """The same; what it does not refuse itself, the session that it stands for does."""

    def begin(self) -> NoReturn:
        refuse("begin()")

    def begin_nested(self) -> NoReturn:
        refuse("begin_nested()")

    async def __aenter__(self) -> NoReturn:
        refuse("async with session")


def _guarded(kind: Any) -> Any:
    return type(kind.__name__, (_Guard, kind), {"__module__": kind.__module__})


def _guarded_async(kind: Any) -> Any:
    return type(kind.__name__, (_AsyncGuard, kind), {"__module__": kind.__module__})
