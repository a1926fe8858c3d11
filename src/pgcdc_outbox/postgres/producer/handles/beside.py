"""Cursors of ours, each kept beside one that a caller keeps.

A new cursor has to learn how to write each parameter and read each column, which
takes longer than checking a job. Who enqueues through one cursor again and again
would pay for that again and again, and by hand would not.
"""

from collections.abc import Callable
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from psycopg import AsyncCursor, Cursor
from psycopg.rows import tuple_row

C = TypeVar("C", bound=Cursor[Any] | AsyncCursor[Any])


class Beside(Generic[C]):
    """For a cursor of the caller a plain one, kept as long as theirs is.

    Only for cursors: ours holds on to its connection, and so one kept for a
    connection would keep that from being closed when nobody has it any more.
    """

    def __init__(self, make: Callable[..., C]) -> None:
        self._make = make
        self._kept: WeakKeyDictionary[Any, tuple[bytes | None, C]] = WeakKeyDictionary()

    def take(self, theirs: Any, connection: Any) -> C:
        """A plain cursor, for nobody else until it is given back; None has none kept."""
        if theirs is not None:
            # Taken out, not looked at: two threads, or tasks, never have the same one.
            kept = self._kept.pop(theirs, None)
            # A cursor goes on writing text as it did when it first saw a statement.
            if kept is not None and kept[0] == _encoding(connection):
                return kept[1]

        return self._make(connection, row_factory=tuple_row)

    def give_back(self, theirs: Any, cursor: C) -> None:
        """Keep it for the next time."""
        if theirs is not None:
            self._kept[theirs] = _encoding(cursor.connection), cursor


def _encoding(connection: Any) -> bytes | None:
    name: bytes | None = connection.pgconn.parameter_status(b"client_encoding")
    return name
