"""Forgetting dedup keys whose time is over."""

from typing import Final

from psycopg import Connection

from pgcdc_outbox.postgres.connection import Row, run

# In a transaction of its own each: producers that take a key again wait for no more.
_BATCH: Final = 1000


def forget_keys(connection: Connection[Row], schema: str) -> int:
    """Delete them in batches; how many it were. Raises `OutboxError`."""
    forgotten = 0
    while True:
        row = run(connection, "forget_keys", schema, limit=_BATCH).fetchone()
        assert row is not None
        forgotten += int(row["keys"])
        if row["keys"] < _BATCH:
            return forgotten
