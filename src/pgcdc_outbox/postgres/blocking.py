"""Waiting for locks: for how long, and who is in the way."""

from datetime import timedelta

from psycopg import Connection

from pgcdc_outbox.postgres.connection import Row, run


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
