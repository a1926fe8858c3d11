"""Reading jobs from the table, and remembering how far they are settled.

What is read is settled through a `Progress` of its own, whose positions are the
numbers of marks: places in the table where reading could begin again. The last
one such that it and everything before it is settled is saved, so that a crash
repeats little.
"""

import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, Final

import anyio
import msgspec

from pgcdc_outbox.consumer.intake import Intake
from pgcdc_outbox.core.ahead import Ahead
from pgcdc_outbox.core.batching import Batch
from pgcdc_outbox.core.deliveries import number
from pgcdc_outbox.core.progress import Progress, Ticket
from pgcdc_outbox.job import JSON_TYPE, History, Job
from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.postgres.source.checkpoint import Checkpoint, Reconcile
from pgcdc_outbox.postgres.source.leadership import Leadership
from pgcdc_outbox.postgres.source.rows import expires_us
from pgcdc_outbox.postgres.source.span import Row, count_rows, cursor_of, read_page

# Rows between two marks: few, for what is settled behind a mark is repeated after a crash.
_ROWS_PER_MARK = 32

# Beyond so many marks every other one is forgotten: one job runs for hours, others go on.
_MOST_MARKS = 8192

_UNIX_OF_2000_US: Final = 946_684_800_000_000
_JSON_OBJECT: Final = msgspec.json.Decoder(dict[str, Any])
_HISTORY: Final = msgspec.json.Decoder(History)


class TableReading:
    """Hands out what the table holds between snapshots, and saves how far that is settled."""

    def __init__(self, leadership: Leadership, start: Checkpoint) -> None:
        self._leadership = leadership
        self._known: Mapping[int, int] = {}
        self._progress = Progress(LSN(0))
        self._marks: list[tuple[int, Checkpoint]] = [(0, start)]
        self._number = 0
        self._saved_number = 0
        self.saved = start
        """The place that is saved."""
        self._ahead = Ahead()
        self._changed = anyio.Event()
        self.handed_out = 0
        """Jobs that were given to the intake."""

    @property
    def settled(self) -> Checkpoint:
        """The last place such that everything before it is settled."""
        return self._mark()[1]

    @property
    def place(self) -> Checkpoint:
        """The last place, settled or not."""
        return self._marks[-1][1]

    @property
    def end(self) -> int:
        """The number of the last place."""
        return self._number

    def is_settled(self, number: int) -> bool:
        """Whether everything before the place of that number is settled."""
        return self._progress.flushed >= number

    def is_saved(self, number: int) -> bool:
        """Whether reading would begin behind the place of that number."""
        return self._saved_number >= number

    def know(self, deliveries: Mapping[int, int]) -> None:
        """Pass over these deliveries: they are settled, although no place says so."""
        self._known = deliveries

    def settle(self, batch: Batch) -> None:
        """The fate of every job of the batch is durable."""
        self._progress.settle(batch.tickets)
        self._ahead.add(batch.jobs, batch.tickets, LSN(self._saved_number))
        self._changed.set()

    def ahead(self) -> dict[int, int]:
        """Deliveries that are settled although reading would begin before them."""
        return self._ahead.deliveries(LSN(self._saved_number))

    async def count(self, span: Reconcile) -> int:
        """How many jobs a span holds. Raises `OutboxError`."""
        return await count_rows(self._leadership, span)

    async def read(self, span: Reconcile, intake: Intake) -> bool:
        """Hand out a span, from its cursor to its end; False if the intake was closed before.

        It does not wait until the jobs are settled.
        """
        cursor = span.cursor
        while rows := await read_page(self._leadership, span, cursor):
            cursor = cursor_of(rows[-1])
            self._deliver(rows, span, intake)
            while intake.full and not intake.closed:
                await intake.room()

            if intake.closed:
                return False

        self._pass(span)
        return True

    async def until_settled(self, intake: Intake) -> bool:
        """Wait until all that was handed out is settled; False if the intake was closed before."""
        while self._progress.open:
            if intake.closed:
                return False

            await self.until_changed()

        return True

    async def until_changed(self) -> None:
        """Wait until something is settled."""
        self._changed = anyio.Event()
        await self._changed.wait()

    async def save(self) -> bool:
        """Save how far the table is settled; False if that was saved already.

        Raises `Fenced` and other `OutboxError`.
        """
        number, mark = self._mark()
        if number == self._saved_number:
            return False

        plan = mark.reconcile
        xid, id_ = (None, None) if plan is None else plan.cursor
        await self._leadership.fenced(
            "save_reading",
            {
                "system_id": mark.system.system_id,
                "timeline": mark.system.timeline,
                "snapshot": mark.snapshot,
                "lsn": str(mark.lsn),
                "flushed": str(mark.flushed),
                "target": None if plan is None else plan.target,
                "target_lsn": None if plan is None else str(plan.position),
                "xid": xid,
                "id": id_,
            },
            doing="save how far the table was read",
        )
        self._saved_number, self.saved = number, mark
        return True

    def _deliver(self, rows: Sequence[Row], span: Reconcile, intake: Intake) -> None:
        now = time.monotonic()
        for at in range(0, len(rows), _ROWS_PER_MARK):
            part = rows[at : at + _ROWS_PER_MARK]
            ticket = self._progress.begin()
            self._hand_over(part, ticket, intake, now)
            reached = msgspec.structs.replace(span, cursor=cursor_of(part[-1]))
            self._commit(ticket, msgspec.structs.replace(self.place, reconcile=reached))

        intake.release(idle=False)

    def _hand_over(self, rows: Sequence[Row], ticket: Ticket, intake: Intake, now: float) -> None:
        run: list[Job] = []
        size = 0
        for row in rows:
            id_, created, attempt, topic, payload, key, headers, kind, history, _, expires = row
            usual = attempt is None and headers is history is expires is None
            if usual and id_ not in self._known:
                run.append(Job(id_, topic, payload, key, {}, kind or JSON_TYPE, 1, _us(created)))
                size += len(payload)
                continue

            if run:
                self._put_run(run, ticket, size, intake, now)
                run, size = [], 0

            self._put_one(row, ticket, intake, now)

        if run:
            self._put_run(run, ticket, size, intake, now)

    def _put_run(
        self, run: list[Job], ticket: Ticket, size: int, intake: Intake, now: float
    ) -> None:
        ticket.owed += len(run)
        self.handed_out += len(run)
        intake.put_many(run, ticket, size, now)

    def _put_one(self, row: Row, ticket: Ticket, intake: Intake, now: float) -> None:
        why = ""
        try:
            job = _job(row)
        except Exception as error:
            # Data, as in the log: it must not end the consumer.
            job, why = _bare(row), f"{type(error).__name__}: {error}"

        if self._known.get(job.id, 0) >= number(job):
            # Settled before, but not by the place that was saved.
            return

        ticket.owed += 1
        self.handed_out += 1
        if why:
            intake.put_dead(job, why, ticket, now)
        else:
            intake.put(job, ticket, now)

    def _pass(self, span: Reconcile) -> None:
        """Note the end of a span."""
        at_end = msgspec.structs.replace(
            self.place,
            snapshot=span.target,
            lsn=span.position,
            flushed=span.position,
            reconcile=None,
        )
        if not self._progress.open:
            self._number += 1
            self._marks = [(self._number, at_end)]
            self._progress.observe(LSN(self._number))
        elif self.place.reconcile is None:
            # It held nothing: the place where the one before ends has moved.
            self._marks[-1] = (self._number, at_end)
        else:
            self._commit(self._progress.begin(), at_end)

    def _commit(self, ticket: Ticket, mark: Checkpoint) -> None:
        self._number += 1
        self._marks.append((self._number, mark))
        self._progress.commit(ticket, LSN(self._number))
        if len(self._marks) > _MOST_MARKS:
            del self._marks[1:-1:2]

    def _mark(self) -> tuple[int, Checkpoint]:
        """The last mark that is settled; those before it are forgotten."""
        place = bisect_right(self._marks, int(self._progress.flushed), key=lambda mark: mark[0])
        del self._marks[: place - 1]
        return self._marks[0]


def _bare(row: Row) -> Job:
    """What a person will want to see of a row that is no job."""
    id_, created, attempt, topic, payload, key, *_ = row
    return Job(
        id=id_, topic=topic, payload=payload, key=key, attempt=attempt or 1, created_us=_us(created)
    )


def _job(row: Row) -> Job:
    id_, created, attempt, topic, payload, key, headers, kind, history, _, expires = row
    past = None if history is None else _HISTORY.decode(history)
    return Job(
        id=id_,
        topic=topic,
        payload=payload,
        key=key,
        headers={} if headers is None else _JSON_OBJECT.decode(headers),
        content_type=kind or JSON_TYPE,
        attempt=attempt or 1,
        created_us=_us(created) if past is None else past.created_us,
        history=past,
        expires_us=None if expires is None else expires_us(expires),
    )


def _us(created: bytes) -> int:
    return int.from_bytes(created, "big", signed=True) + _UNIX_OF_2000_US
