"""Choosing how a consumer that is held is read: through its slot, or from the table."""

import time

from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.errors import OutboxError, SlotInUse
from pgcdc_outbox.events import LogUnavailable
from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.postgres.names import slot_name
from pgcdc_outbox.postgres.source.checkpoint import NOTHING_SEEN, Checkpoint, load
from pgcdc_outbox.postgres.source.feed import LogicalFeed
from pgcdc_outbox.postgres.source.leadership import Leadership
from pgcdc_outbox.postgres.source.logical import open_log
from pgcdc_outbox.postgres.source.past import Past
from pgcdc_outbox.postgres.source.reading import Reading
from pgcdc_outbox.postgres.source.shutdown import Shutdown
from pgcdc_outbox.postgres.source.start import require_same_cluster
from pgcdc_outbox.postgres.source.table_feed import TableFeed


async def choose(
    conninfo: str,
    leadership: Leadership,
    *,
    reading: Reading,
    past: Past,
    shutdown: Shutdown,
    notice: Notice,
) -> LogicalFeed | TableFeed:
    """The feed that goes on from the checkpoint. Raises `OutboxError`."""
    checkpoint = await load(leadership)
    require_same_cluster(leadership, checkpoint)
    past.believe(leadership, checkpoint)
    choice = _Choice(
        conninfo,
        leadership,
        checkpoint,
        reading=reading,
        past=past,
        shutdown=shutdown,
        notice=notice,
    )
    return await choice.feed()


class _Choice:
    """One feed follows the other: this chooses that of one hold."""

    def __init__(
        self,
        conninfo: str,
        leadership: Leadership,
        checkpoint: Checkpoint | None,
        *,
        reading: Reading,
        past: Past,
        shutdown: Shutdown,
        notice: Notice,
    ) -> None:
        self._conninfo = conninfo
        self._leadership = leadership
        self._checkpoint = checkpoint
        self._reading = reading
        self._past = past
        self._shutdown = shutdown
        self._notice = notice

    async def feed(self) -> LogicalFeed | TableFeed:
        if self._reading.mode == "polling":
            return await self._without_log()

        if self._checkpoint is not None and self._checkpoint.reconcile is not None:
            # Before anything is asked of a slot: what is half read is finished first.
            return self._table(self._checkpoint)

        if self._reading.mode == "logical":
            return await self._log()

        return await self._log_if_possible()

    async def _without_log(self) -> LogicalFeed | TableFeed:
        """Poll, after the slot that was read so far is read to its end."""
        if self._leadership.slot is None or self._checkpoint is None or self._past.lost:
            return await self._polling()

        if self._checkpoint.reconcile is not None:
            return self._table(self._checkpoint)

        try:
            return await self._log(leave_at=self._leadership.inserted)
        except SlotInUse:
            raise
        except OutboxError as error:
            self._tell_unavailable(error)
            return await self._polling()

    async def _log_if_possible(self) -> LogicalFeed | TableFeed:
        if time.monotonic() >= self._past.polls_until:
            try:
                return await self._log(max_retained=self._reading.max_retained_wal)
            except SlotInUse:
                raise
            except OutboxError as error:
                self._tell_unavailable(error)
                self._past.left_log()

        return await self._polling(until=self._past.polls_until)

    def _tell_unavailable(self, error: OutboxError) -> None:
        self._notice(
            LogUnavailable(consumer=self._leadership.consumer, error=str(error), hint=error.hint)
        )

    async def _log(
        self, *, leave_at: LSN | None = None, max_retained: int | None = None
    ) -> LogicalFeed | TableFeed:
        feed = await open_log(
            self._conninfo,
            self._leadership,
            self._checkpoint,
            memory=self._past.memory,
            checkpoint_interval=self._reading.checkpoint_interval,
            policy=self._reading.slot_policy,
            lost=self._past.lost,
            wal_sender_timeout=self._reading.wal_sender_timeout,
            shutdown=self._shutdown,
            notice=self._notice,
            leave_at=leave_at,
            max_retained=max_retained,
        )
        self._past.lost = ""
        await self._leadership.note_mode("logical")
        if feed is not None:
            return feed

        # A new slot: first what it will not bring.
        planned = await load(self._leadership)
        assert planned is not None
        return self._table(planned)

    async def _polling(self, *, until: float = float("inf")) -> TableFeed:
        await self._leadership.note_mode("polling")
        if self._leadership.slot is not None:
            await self._leadership.fenced("forget_slot", {}, doing="leave the slot")
            self._past.lost = ""

        return self._table(
            self._checkpoint or _nothing_read(self._leadership),
            poll_interval=self._reading.poll_interval,
            polls_until=until,
        )

    def _table(
        self,
        checkpoint: Checkpoint,
        *,
        poll_interval: float | None = None,
        polls_until: float = float("inf"),
    ) -> TableFeed:
        leadership = self._leadership
        return TableFeed(
            leadership,
            checkpoint,
            memory=self._past.memory,
            slot=slot_name(leadership.schema, leadership.consumer, leadership.database_oid),
            poll_interval=poll_interval,
            polls_until=polls_until,
            shutdown=self._shutdown,
            notice=self._notice,
        )


def _nothing_read(leadership: Leadership) -> Checkpoint:
    return Checkpoint(
        system=leadership.system,
        snapshot=NOTHING_SEEN,
        lsn=LSN(0),
        flushed=LSN(0),
        reconcile=None,
    )
