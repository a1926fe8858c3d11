"""Reading jobs from the table, and remembering how far they are settled.

What is read is settled through a `Progress` of its own, whose positions are the
numbers of marks: places in the table where reading could begin again. The last
one such that it and everything before it is settled is saved, so that a crash
repeats little.
"""

import time
from bisect import bisect_right
from collections.abc import Mapping
from contextlib import suppress
from operator import attrgetter
from typing import NamedTuple

import anyio
import msgspec
from anyio.lowlevel import checkpoint

from pgcdc_outbox.consumer.intake import Intake
from pgcdc_outbox.consumer.together import together
from pgcdc_outbox.core.ahead import Ahead
from pgcdc_outbox.core.batching import Batch
from pgcdc_outbox.core.deliveries import number
from pgcdc_outbox.core.progress import Progress, Ticket
from pgcdc_outbox.job import Job
from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.postgres.source.checkpoint import Checkpoint, Reconcile
from pgcdc_outbox.postgres.source.leadership import Leadership
from pgcdc_outbox.postgres.source.page import Cursor, Part
from pgcdc_outbox.postgres.source.rows import Undecodable
from pgcdc_outbox.postgres.source.span import Pages, count_rows

# Parts that are handed out before others get a turn: the handler, and who reads the next page.
_PARTS_PER_TURN = 32

# Beyond so many marks every other one is forgotten: one job runs for hours, others go on.
_MOST_MARKS = 8192


class Mark(NamedTuple):
    """A place in the table; spelled out only if it is saved, for few are."""

    number: int
    base: Checkpoint
    cursor: Cursor | None = None
    """How far the span of the base is read; None if the base itself is the place."""

    @property
    def place(self) -> Checkpoint:
        """The place as it is saved."""
        span = self.base.reconcile
        if self.cursor is None or span is None:
            return self.base

        reached = msgspec.structs.replace(span, cursor=self.cursor)
        return msgspec.structs.replace(self.base, reconcile=reached)


class TableReading:
    """Hands out what the table holds between snapshots, and saves how far that is settled."""

    def __init__(self, leadership: Leadership, start: Checkpoint) -> None:
        self._leadership = leadership
        self._known: Mapping[int, int] = {}
        self._progress = Progress(LSN(0))
        self._marks = [Mark(0, start)]
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
        return self._mark().place

    @property
    def place(self) -> Checkpoint:
        """The last place, settled or not."""
        return self._marks[-1].place

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
        pages = Pages(self._leadership, span)
        if first := await pages.next():
            await self._read_and_hand_out(first, pages, span, intake)
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
        mark = self._mark()
        if mark.number == self._saved_number:
            return False

        place = mark.place
        plan = place.reconcile
        xid, id_ = (None, None) if plan is None else plan.cursor
        await self._leadership.fenced(
            "save_reading",
            {
                "system_id": place.system.system_id,
                "timeline": place.system.timeline,
                "snapshot": place.snapshot,
                "lsn": str(place.lsn),
                "flushed": str(place.flushed),
                "target": None if plan is None else plan.target,
                "target_lsn": None if plan is None else str(plan.position),
                "xid": xid,
                "id": id_,
            },
            doing="save how far the table was read",
        )
        self._saved_number, self.saved = mark.number, place
        return True

    async def _read_and_hand_out(
        self, first: list[Part], pages: Pages, span: Reconcile, intake: Intake
    ) -> None:
        """Hand out pages to the last; while one is handed out and handled, the next is read."""
        # It has no room of its own, so that one page is read ahead, and no more.
        reader, pages_read = anyio.create_memory_object_stream[list[Part]](0)

        async def read() -> None:
            parts = first
            # Broken by the other end, when the intake was closed.
            with reader, suppress(anyio.BrokenResourceError):
                while parts:
                    await reader.send(parts)
                    parts = await pages.next()

        async def hand_out() -> None:
            with pages_read:
                async for parts in pages_read:
                    await self._hand_out(parts, span, intake)
                    if intake.closed:
                        break

        await together(read, hand_out)

    async def _hand_out(self, parts: list[Part], span: Reconcile, intake: Intake) -> None:
        """Hand out a page, as far as the intake has room before it is closed."""
        base = msgspec.structs.replace(self.place, reconcile=span)
        for at in range(0, len(parts), _PARTS_PER_TURN):
            while intake.full and not intake.closed:
                await intake.room()

            if intake.closed:
                return

            now = time.monotonic()
            for part in parts[at : at + _PARTS_PER_TURN]:
                ticket = self._progress.begin()
                self._hand_over(part, ticket, intake, now)
                self._commit(ticket, base, part.end)

            intake.release(idle=False)
            await checkpoint()

    def _hand_over(self, part: Part, ticket: Ticket, intake: Intake, now: float) -> None:
        if part.fresh and not self._known:
            ticket.owed += len(part.fresh)
            self.handed_out += len(part.fresh)
            intake.put_many(part.fresh, ticket, part.size, now)
            return

        for each in part.others or part.fresh:
            self._put_one(each, ticket, intake, now)

    def _put_one(self, each: Job | Undecodable, ticket: Ticket, intake: Intake, now: float) -> None:
        job = each.job if isinstance(each, Undecodable) else each
        if self._known.get(job.id, 0) >= number(job):
            # Settled before, but not by the place that was saved.
            return

        ticket.owed += 1
        self.handed_out += 1
        if isinstance(each, Undecodable):
            intake.put_dead(job, each.reason, ticket, now)
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
            self._marks = [Mark(self._number, at_end)]
            self._progress.observe(LSN(self._number))
        elif self.place.reconcile is None:
            # It held nothing: the place where the one before ends has moved.
            self._marks[-1] = Mark(self._number, at_end)
        else:
            self._commit(self._progress.begin(), at_end)

    def _commit(self, ticket: Ticket, base: Checkpoint, cursor: Cursor | None = None) -> None:
        self._number += 1
        self._marks.append(Mark(self._number, base, cursor))
        self._progress.commit(ticket, LSN(self._number))
        if len(self._marks) > _MOST_MARKS:
            del self._marks[1:-1:2]

    def _mark(self) -> Mark:
        """The last mark that is settled; those before it are forgotten."""
        place = bisect_right(self._marks, int(self._progress.flushed), key=attrgetter("number"))
        del self._marks[: place - 1]
        return self._marks[0]
