"""A stretch of the table between two snapshots, read a page at a time.

A row belongs to it if it is visible in ``target`` and not in ``since``. Those are
exactly the rows of transactions that ran while ``since`` was taken, and of ones
that began later; both are found by the index on (xid, id), however many rows
stand in the table and however long somebody's transaction has been open.
"""

from typing import Any

from pgcdc_outbox.postgres.source.checkpoint import Reconcile
from pgcdc_outbox.postgres.source.leadership import Leadership

# A page is held in memory, and the next one beside it: so many rows, or about so many
# bytes of payload.
PAGE_ROWS = 5000
PAGE_BYTES = 4 * 1024 * 1024

# What a look at a table of any size may take.
_LONG_SECONDS = 3600.0

_PAYLOAD = 4

Row = tuple[Any, ...]
"""id, created_at, attempt, topic, payload, key, headers, content_type, history, xid, expires_at.

created_at is microseconds since 2000, expires_at the eight bytes of the same.
"""

Cursor = tuple[str, int]
"""Read up to this xid and id."""

COUNTED = 1_000_000
_LEAST_ID = -(2**63)


class Pages:
    """The rows of a span from its cursor on, a page at a time, in the order of (xid, id)."""

    def __init__(self, leadership: Leadership, span: Reconcile) -> None:
        self._leadership = leadership
        self._target = span.target
        self._running, self._first_later = _parts(span.since)
        self._cursor = span.cursor
        # Until one comes that is not, payloads are taken to be small.
        self._small = True

    async def next(self) -> list[Row]:
        """The next page; none at the end. Raises `OutboxError`."""
        rows = await self._later() if self._is_later() else await self._while_running()
        if rows:
            self._cursor = cursor_of(rows[-1])

        return rows

    def _is_later(self) -> bool:
        return not self._running or _place(self._cursor) >= _place(self._first_later)

    async def _while_running(self) -> list[Row]:
        rows = await self._read("read_running", running=self._running, bytes=PAGE_BYTES)
        if rows:
            return rows

        self._cursor = self._first_later
        return await self._later()

    async def _later(self) -> list[Row]:
        self._cursor = max(self._cursor, self._first_later, key=_place)
        small = PAGE_BYTES // PAGE_ROWS
        if self._small:
            rows = await self._read("read_small", small=small)
            payloads = [row[_PAYLOAD] for row in rows]
            if None not in payloads:
                return rows

            self._small = False
            if first_large := payloads.index(None):
                return rows[:first_large]

        rows = await self._read("read_later", bytes=PAGE_BYTES)
        self._small = all(len(row[_PAYLOAD]) <= small for row in rows)
        return rows

    async def _read(self, name: str, **parameters: object) -> list[Row]:
        xid, id_ = self._cursor
        return await self._leadership.rows_by_index(
            name,
            {
                "consumer": self._leadership.consumer,
                "target": self._target,
                "limit": PAGE_ROWS,
                "xid": xid,
                "id": id_,
                **parameters,
            },
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
    return str(row[9]), row[0]


def _parts(snapshot: str) -> tuple[list[str], Cursor]:
    """The transactions that were running, and where the rows of later ones begin."""
    _, xmax, running = snapshot.split(":")
    return running.split(",") if running else [], (xmax, _LEAST_ID)


def _place(cursor: Cursor) -> tuple[int, int]:
    return int(cursor[0]), cursor[1]
