"""Which parameters ask for a connection: told by the name of the class, so that nothing is loaded.

A handler that asks for one has imported its class; a router that nobody asks
for one needs neither driver.
"""

from typing import Any, Final, get_origin

_ASYNC: Final = frozenset({("psycopg", "AsyncConnection"), ("sqlalchemy", "AsyncSession")})
_SYNC: Final = frozenset({("psycopg", "Connection"), ("sqlalchemy", "Session")})
_OTHERS: Final = frozenset(
    {
        ("asyncpg", "Connection"),
        ("sqlalchemy", "AsyncConnection"),
        ("sqlalchemy", "Connection"),
        ("sqlalchemy", "scoped_session"),
        ("sqlalchemy", "async_scoped_session"),
        ("psycopg", "AsyncCursor"),
        ("psycopg", "Cursor"),
        ("psycopg2", "connection"),
    }
)
KNOWN: Final = (
    "psycopg.AsyncConnection or a SQLAlchemy AsyncSession in async handlers, "
    "psycopg.Connection or a SQLAlchemy Session in sync ones"
)


def connection_class(annotation: Any) -> type | None:
    """The class of connections that is asked for, if it is one."""
    kind = get_origin(annotation) or annotation
    return kind if isinstance(kind, type) and _name(kind) in _ASYNC | _SYNC else None


def is_other(annotation: Any) -> bool:
    """Whether it is a connection, but of a class that nobody can give."""
    kind = get_origin(annotation) or annotation
    return isinstance(kind, type) and _name(kind) in _OTHERS


def is_async(kind: type) -> bool:
    """Whether it is for async handlers."""
    return _name(kind) in _ASYNC


def _name(kind: type) -> tuple[str, str]:
    return kind.__module__.partition(".")[0], kind.__name__
