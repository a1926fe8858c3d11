"""Emptying an outbox between two tests, or saying who is in the way."""

import time
from typing import Any, Final

from psycopg import Connection, errors, sql

from pgcdc_outbox.postgres.connection import run
from pgcdc_outbox.testing.errors import NotClean

_PATIENCE_SECONDS: Final = 5.0
"""A consumer or connection that has ended is gone from the server a moment later."""


def clean(connection: Connection[Any], schema: str) -> None:
    """Remove every job and every trace of consumers; ids begin at 1 again.

    Takes a connection in autocommit mode. Raises `NotClean` if somebody else is
    in the way: a consumer that still runs, or a transaction that is still open.
    """
    _await_consumers(connection, schema)
    run(connection, "testing_drop_slots", schema)
    tables = [row["name"] for row in run(connection, "testing_tables", schema, schema=schema)]
    sequence = sql.Identifier(schema, "job_id")
    try:
        with connection.transaction():
            patience = sql.Literal(f"{_PATIENCE_SECONDS * 1000:.0f}ms")
            connection.execute(sql.SQL("set local lock_timeout = {}").format(patience))
            truncate = f"truncate {', '.join(tables)} restart identity"
            connection.execute(truncate.replace("%", "%%").encode(), {})
            connection.execute(sql.SQL("alter sequence {} restart").format(sequence))
    except errors.LockNotAvailable:
        raise NotClean(
            "the outbox cannot be emptied for this test, because an earlier one left a "
            f"transaction open: {_blockers(connection, schema)}. Commit it, roll it back, or "
            "close its connection."
        ) from None


def _await_consumers(connection: Connection[Any], schema: str) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while running := [row["name"] for row in run(connection, "testing_consumers", schema)]:
        if time.monotonic() > deadline:
            raise NotClean(
                "an earlier test left a consumer running, which would take the jobs of this "
                f"one: {', '.join(sorted(set(running)))}. Stop it, and wait for its end."
            )

        time.sleep(0.01)


def _blockers(connection: Connection[Any], schema: str) -> str:
    return "; ".join(
        f"pid {row['pid']} ({row['name'] or 'no application_name'}, {row['state']}), "
        f"last statement {row['query']!r}"
        for row in run(connection, "testing_blockers", schema)
    )
