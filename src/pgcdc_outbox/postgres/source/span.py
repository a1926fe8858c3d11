"""A stretch of the table between two snapshots, read a page at a time.

A row belongs to it if it is visible in ``target`` and not in ``since``. Those are
exactly the rows of transactions that ran while ``since`` was taken, and of ones
that began later; both are found by the index on (xid, id), however many rows
stand in the table and however long somebody's transaction has been open.
"""

from typing import Any

from pgcdc_outbox.postgres.source.checkpoint import Reconcile
from pgcdc_outbox.postgres.source.leadership import Leadership

# A page is held in memory: so many rows, or about so many bytes of payload.
PAGE_ROWS = 5000
PAGE_BYTES = 4 * 1024 * 1024

# What a look at a table of any size may take.
_LONG_SECONDS = 3600.0

Row = tuple[Any, ...]
"""id, created_at, attempt, topic, payload, key, headers, content_type, history, xid, expires_at."""

Cursor = tuple[str, int]
"""Read up to this xid and id."""

COUNTED = 1_000_000
_LEAST_ID = -(2**63)


async def read_page(leadership: Leadership, span: Reconcile, cursor: Cursor) -> list[Row]:
    """The next rows behind the cursor, in the order of (xid, id); none at the end.

    Raises `OutboxError`.
    """
    running, first_later = _parts(span.since)
    parameters = {
        "consumer": leadership.consumer,
        "target": span.target,
        "limit": PAGE_ROWS,
        "bytes": PAGE_BYTES,
    }
    later = _place(cursor) >= _place(first_later)
    if running and not later:
        rows = await leadership.rows_by_index(
            "read_running",
            {**parameters, "running": running, "xid": cursor[0], "id": cursor[1]},
            doing="read the table",
            within=_LONG_SECONDS,
        )
        if rows:
            return rows

    xid, id_ = cursor if later else first_later
    return await leadership.rows_by_index(
        "read_later",
        {**parameters, "xid": xid, "id": id_},
        doing="read the table",
        within=_LONG_SECONDS,
    )


async def count_rows(leadership: Leadership, span: Reconcile) -> int:
    """How many jobs are left to read, counted up to `COUNTED`. Raises `OutboxError`."""
    running, first_later = _parts(span.since)
    # From the oldest transaction that may have rows in it.
    oldest = (str(min(map(int, running))), _LEAST_ID) if running else first_later
    xid, id_ = max(span.cursor, oldest, key=_place)
    ((count,),) = await leadership.rows(
        "count_unsettled",
        {
            "consumer": leadership.consumer,
            "since": span.since,
            "target": span.target,
            "xid": xid,
            "id": id_,
            "limit": COUNTED,
        },
        doing="count the jobs",
    )
    return int(count)


def cursor_of(row: Row) -> Cursor:
    """Where reading goes on behind this row."""
    return str(int.from_bytes(row[9], "big")), row[0]


def _parts(snapshot: str) -> tuple[list[str], Cursor]:
    """The transactions that were running, and where the rows of later ones begin."""
    _, xmax, running = snapshot.split(":")
    return running.split(",") if running else [], (xmax, _LEAST_ID)


def _place(cursor: Cursor) -> tuple[int, int]:
    return int(cursor[0]), cursor[1]
