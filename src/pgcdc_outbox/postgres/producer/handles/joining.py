"""Which handle fits the object given as ``tx``.

Told by the names of its classes, so that nobody's library is imported before
they bring an object of it.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NoReturn

from psycopg import (
    AsyncConnection,
    AsyncCursor,
    AsyncTransaction,
    Connection,
    Cursor,
    Transaction,
)

from pgcdc_outbox.errors import JobInvalid
from pgcdc_outbox.postgres.producer.handles import with_asyncpg, with_psycopg
from pgcdc_outbox.postgres.producer.handles.port import AsyncHandle, Handle

_SYNC: Final = (
    "a psycopg Connection, Cursor or Transaction, or a SQLAlchemy Session, scoped_session "
    "or Connection"
)
_ASYNC: Final = (
    "a psycopg AsyncConnection, AsyncCursor or AsyncTransaction, an asyncpg Connection, or a "
    "SQLAlchemy AsyncSession, async_scoped_session or AsyncConnection"
)
_SQLALCHEMY: Final = {
    "sqlalchemy.orm.session.Session",
    "sqlalchemy.orm.scoping.scoped_session",
    "sqlalchemy.engine.base.Connection",
}
_ASYNC_SQLALCHEMY: Final = {
    "sqlalchemy.ext.asyncio.session.AsyncSession",
    "sqlalchemy.ext.asyncio.scoping.async_scoped_session",
    "sqlalchemy.ext.asyncio.engine.AsyncConnection",
}
_ASYNCPG: Final = {
    "asyncpg.connection.Connection",
    "asyncpg.pool.PoolConnectionProxy",
}

Join = Callable[[Any, str], Handle]
AsyncJoin = Callable[[Any, str], AsyncHandle]


def join(tx: Any, schema: str) -> Handle:
    """The handle that inserts in the transaction of ``tx``.

    Raises `JobInvalid` for an object that is none of ours, `TransactionMissing`
    for one whose next statement would commit on its own.
    """
    # Not type(): a proxy, of a tracer say, tells the class of what it stands for.
    if (opener := _opener(tx.__class__)) is None:
        _refuse(tx, _SYNC, "Use AsyncClient." if _async_opener(tx.__class__) else "")

    return opener(tx, schema)


def join_async(tx: Any, schema: str) -> AsyncHandle:
    """The handle that inserts in the transaction of ``tx``.

    Raises as `join` does; that of SQLAlchemy says only when it is used that a
    transaction is missing, because it may have to connect to know.
    """
    if (opener := _async_opener(tx.__class__)) is None:
        _refuse(tx, _ASYNC, "Use Client." if _opener(tx.__class__) else "")

    return opener(tx, schema)


@lru_cache(maxsize=256)
def _opener(kind: type) -> Join | None:
    if issubclass(kind, (Connection, Cursor, Transaction)):
        return with_psycopg.join

    if _ancestors(kind) & _SQLALCHEMY:
        from pgcdc_outbox.postgres.producer.handles import with_sqlalchemy

        return with_sqlalchemy.join

    return None


@lru_cache(maxsize=256)
def _async_opener(kind: type) -> AsyncJoin | None:
    if issubclass(kind, (AsyncConnection, AsyncCursor, AsyncTransaction)):
        return with_psycopg.join_async

    if _ancestors(kind) & _ASYNCPG:
        return with_asyncpg.join_async

    if _ancestors(kind) & _ASYNC_SQLALCHEMY:
        from pgcdc_outbox.postgres.producer.handles import with_sqlalchemy

        return with_sqlalchemy.join_async

    return None


def _ancestors(kind: type) -> set[str]:
    return {f"{ancestor.__module__}.{ancestor.__qualname__}" for ancestor in kind.__mro__}


def _refuse(tx: Any, accepted: str, hint: str) -> NoReturn:
    kind = type(tx)
    raise JobInvalid(
        f"tx: a {kind.__module__}.{kind.__qualname__} is given; accepted is {accepted}",
        hint=hint or "Give the connection or session that your own statements run on.",
    )
