"""A stretch of the table between two snapshots, read a page at a time.

A row belongs to it if it is visible in ``target`` and not in ``since``. Those are
exactly the rows of transactions that ran while ``since`` was taken, and of ones
that began later; both are found by the index on (xid, id), however many rows
stand in the table and however long somebody's transaction has been open.
"""

from pgcdc_outbox.postgres.source.checkpoint import Reconcile
from pgcdc_outbox.postgres.source.leadership import Leadership
from pgcdc_outbox.postgres.source.page import Cursor, Page, Part

# A page is held in memory, and the next one beside it: so many rows, or about so many
# bytes of payload.
PAGE_ROWS = 5000
PAGE_BYTES = 4 * 1024 * 1024

# What a look at a table of any size may take.
_LONG_SECONDS = 3600.0

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

    async def next(self) -> list[Part]:
        """The next page; none at the end. Raises `OutboxError`."""
        parts = await self._later() if self._is_later() else await self._while_running()
        if parts:
            self._cursor = parts[-1].end

        return parts

    def _is_later(self) -> bool:
        return not self._running or _place(self._cursor) >= _place(self._first_later)

    async def _while_running(self) -> list[Part]:
        page = await self._read("read_running", running=self._running, bytes=PAGE_BYTES)
        if page.parts:
            return page.parts

        self._cursor = self._first_later
        return await self._later()

    async def _later(self) -> list[Part]:
        self._cursor = max(self._cursor, self._first_later, key=_place)
        small = PAGE_BYTES // PAGE_ROWS
        if self._small:
            page = await self._read("read_small", small=small)
            self._small = not page.cut
            if page.parts or not page.cut:
                return page.parts

        page = await self._read("read_later", bytes=PAGE_BYTES)
        self._small = page.largest <= small
        return page.parts

    async def _read(self, name: str, **parameters: object) -> Page:
        page, (xid, id_) = Page(), self._cursor
        await self._leadership.load_by_index(
            name,
            {
                "consumer": self._leadership.consumer,
                "target": self._target,
                "limit": PAGE_ROWS,
                "xid": xid,
                "id": id_,
                **parameters,
            },
            load=page.load,
            doing="read the table",
            within=_LONG_SECONDS,
        )
        return page


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


def _parts(snapshot: str) -> tuple[list[str], Cursor]:
    """The transactions that were running, and where the rows of later ones begin."""
    _, xmax, running = snapshot.split(":")
    return running.split(",") if running else [], (xmax, _LEAST_ID)


def _place(cursor: Cursor) -> tuple[int, int]:
    return int(cursor[0]), cursor[1]
