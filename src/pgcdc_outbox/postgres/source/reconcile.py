"""Jobs that no slot can bring, re-read from the table before the log takes over."""

from collections.abc import Mapping
from typing import Any

import anyio
import msgspec

from pgcdc_outbox.consumer.intake import Intake
from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.core.batching import Batch
from pgcdc_outbox.core.progress import Progress
from pgcdc_outbox.events import Reconciled, Reconciling
from pgcdc_outbox.job import JSON_TYPE, History, Job
from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.postgres.source.checkpoint import Reconcile
from pgcdc_outbox.postgres.source.leadership import Leadership

# What a look at a table of any size may take.
_LONG_SECONDS = 3600.0

# A page is held in memory: so many rows, or about so many bytes of payload.
_PAGE = 1000
_PAGE_BYTES = 4 * 1024 * 1024


class Reconciliation:
    """Reads a page after the other; saves how far it came, so that a crash repeats little.

    Pages are numbered, and settled through a `Progress` of their own: its
    positions are page numbers.
    """

    def __init__(
        self,
        leadership: Leadership,
        plan: Reconcile,
        *,
        known: Mapping[int, int],
        notice: Notice,
    ) -> None:
        self._known = known
        self._leadership = leadership
        self._plan = plan
        self._notice = notice
        self._progress = Progress(LSN(0))
        self._settled = anyio.Event()
        self._cursors: dict[int, tuple[str, int]] = {}
        self._saved = 0
        self._jobs = 0

    @property
    def saved(self) -> LSN:
        """The number of the last page such that it and all before it will not come again.

        Settled is not enough: reading would begin anew behind the saved cursor.
        """
        return LSN(self._saved)

    def settle(self, batch: Batch) -> None:
        """The fate of every job of the batch is durable."""
        self._progress.settle(batch.tickets)
        self._settled.set()

    async def run(self, intake: Intake) -> bool:
        """Deliver everything and wait until it is settled; False if the intake closed before."""
        consumer = self._leadership.consumer
        jobs = await self._count()
        self._notice(Reconciling(consumer=consumer, jobs=jobs))
        cursor = self._plan.cursor
        page = 0
        while rows := await self._read(cursor):
            page += 1
            cursor = rows[-1][9], rows[-1][0]
            self._cursors[page] = cursor
            self._deliver(rows, page, intake)
            await self.save()
            while intake.full and not intake.closed:
                await intake.room()

            if intake.closed:
                return False

        intake.release(idle=True)
        while self._progress.flushed < page:
            if intake.closed:
                return False

            self._settled = anyio.Event()
            await self._settled.wait()
            await self.save()

        self._notice(Reconciled(consumer=consumer, jobs=self._jobs))
        return True

    def _deliver(self, rows: list[tuple[Any, ...]], page: int, intake: Intake) -> None:
        ticket = self._progress.begin()
        now = anyio.current_time()
        for row in rows:
            if not row[10] and self._known.get(row[0], 0) < (row[2] or 1):
                ticket.owed += 1
                self._jobs += 1
                try:
                    job = _job(row)
                except Exception as error:
                    # Data, as in the log: it must not end the consumer.
                    intake.put_dead(_bare(row), f"{type(error).__name__}: {error}", ticket, now)
                else:
                    intake.put(job, ticket, now)

        self._progress.commit(ticket, LSN(page))
        intake.release(idle=False)

    async def save(self) -> None:
        """Save how far the table was re-read and settled."""
        page = int(self._progress.flushed)
        if page == self._saved:
            return

        xid, id_ = self._cursors[page]
        await self._leadership.fenced(
            "save_cursor", {"xid": xid, "id": id_}, doing="save how far the table was re-read"
        )
        for done in range(self._saved, page):
            self._cursors.pop(done, None)

        self._saved = page

    async def _count(self) -> int:
        xid, id_ = self._plan.cursor
        rows = await self._leadership.rows(
            "count_unsettled",
            {**self._span(), "xid": xid, "id": id_},
            doing="count the jobs",
            within=_LONG_SECONDS,
        )
        return int(rows[0][0])

    async def _read(self, cursor: tuple[str, int]) -> list[tuple[Any, ...]]:
        xid, id_ = cursor
        return await self._leadership.rows(
            "read_unsettled",
            {**self._span(), "xid": xid, "id": id_, "limit": _PAGE, "bytes": _PAGE_BYTES},
            doing="re-read the table",
            within=_LONG_SECONDS,
        )

    def _span(self) -> dict[str, object]:
        return {
            "consumer": self._leadership.consumer,
            "since": self._plan.since,
            "target": self._plan.target,
        }


def _bare(row: tuple[Any, ...]) -> Job:
    """What a person will want to see of a row that is no job."""
    id_, created_us, attempt, topic, payload, key, *_ = row
    return Job(
        id=id_,
        topic=topic,
        payload=bytes(payload),
        key=key,
        attempt=attempt or 1,
        created_us=created_us,
    )


def _job(row: tuple[Any, ...]) -> Job:
    id_, created_us, attempt, topic, payload, key, headers, kind, history, *_ = row
    past = None if history is None else msgspec.json.decode(history, type=History)
    return Job(
        id=id_,
        topic=topic,
        payload=bytes(payload),
        key=key,
        headers={} if headers is None else msgspec.json.decode(headers, type=dict[str, Any]),
        content_type=kind or JSON_TYPE,
        attempt=attempt or 1,
        created_us=created_us if past is None else past.created_us,
        history=past,
    )
