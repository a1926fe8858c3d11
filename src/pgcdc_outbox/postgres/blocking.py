"""Waiting for locks: for how long, and who is in the way."""

import time
from datetime import timedelta
from typing import Any, Final

from psycopg import Connection, Cursor, errors

from pgcdc_outbox.postgres.connection import Row, run

OUT_OF_PATIENCE: Final = (errors.LockNotAvailable, errors.QueryCanceled)
"""What PostgreSQL raises when a lock, or the work under it, takes too long."""


class Patience:
    """How long one transaction may keep others waiting: from its first strong lock to its end.

    They queue behind a lock that is only asked for, too, so the time spent
    waiting for it counts. ``lock_timeout`` limits each wait further.
    """

    def __init__(
        self,
        connection: Connection[Row],
        schema: str,
        timeout: timedelta,
        *,
        lock_timeout: timedelta | None = None,
    ) -> None:
        self._connection = connection
        self._schema = schema
        self._ends = time.monotonic() + timeout.total_seconds()
        if lock_timeout is not None:
            limit_waiting(connection, lock_timeout)

    def run(self, name: str, /, **parameters: Any) -> Cursor[Row]:
        """Execute a statement in what is left of the time."""
        left = timedelta(seconds=self._ends - time.monotonic())
        self._connection.execute(f"set local statement_timeout = {milliseconds(left)}".encode())
        return run(self._connection, name, self._schema, **parameters)


def limit_waiting(connection: Connection[Row], timeout: timedelta) -> None:
    """Let no statement of this transaction wait longer than that for a lock."""
    connection.execute(f"set local lock_timeout = {milliseconds(timeout)}".encode())


def milliseconds(timeout: timedelta) -> int:
    """As PostgreSQL takes it; never 0, which would mean to wait for ever."""
    return max(1, round(timeout.total_seconds() * 1000))


def lock_holders(connection: Connection[Row], schema: str, waited: timedelta) -> str:
    """`` held by pid 1, 2``: who kept us from a lock; nothing if they are gone already."""
    rows = run(connection, "lock_holders", schema, schema=schema, waited=waited).fetchall()
    if not rows:
        return ""

    return " held by pid " + ", ".join(str(row["pid"]) for row in rows)
