"""The source of jobs: takes hold of a consumer, and chooses how it is read."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from msgspec import Struct

from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.core.switching import Switching
from pgcdc_outbox.errors import OutboxError, PublicationChanged, SlotInUse, SlotInvalidated
from pgcdc_outbox.events import LogUnavailable
from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.postgres.names import slot_name
from pgcdc_outbox.postgres.session import Session
from pgcdc_outbox.postgres.source.checkpoint import NOTHING_SEEN, Checkpoint, load
from pgcdc_outbox.postgres.source.feed import LogicalFeed
from pgcdc_outbox.postgres.source.leadership import Leadership, lead
from pgcdc_outbox.postgres.source.lock import Lock
from pgcdc_outbox.postgres.source.logical import open_log
from pgcdc_outbox.postgres.source.memory import Memory
from pgcdc_outbox.postgres.source.shutdown import Shutdown
from pgcdc_outbox.postgres.source.slot_loss import SlotPolicy
from pgcdc_outbox.postgres.source.start import require_same_cluster
from pgcdc_outbox.postgres.source.table_feed import TableFeed

Mode = Literal["logical", "polling", "auto"]


class Reading(Struct, frozen=True, kw_only=True):
    """How a consumer is read. Seconds and bytes; what they mean is said at `Consumer`."""

    mode: Mode
    checkpoint_interval: float
    poll_interval: float
    max_retained_wal: int
    slot_policy: SlotPolicy
    shutdown_grace: float
    wal_sender_timeout: float | None


class PostgresSource:
    """Opens a feed: of the log, or of the table.

    One feed follows the other. What stands in the table and in no slot is read
    first; then the log takes over, or polling goes on. A slot that is to be left
    is read to its end before.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        consumer: str,
        schema: str,
        instance: str,
        reading: Reading,
        beside: Session,
        notice: Notice,
    ) -> None:
        """``beside`` is a session that is used while a feed is open."""
        self._conninfo = conninfo
        self._consumer = consumer
        self._schema = schema
        self._instance = instance
        self._reading = reading
        self._beside = beside
        self._notice = notice
        self._waiting: _Connections | None = None
        self._memory = Memory()
        self._switching = Switching()
        self._lost = ""
        self._shutdown: Shutdown

    @asynccontextmanager
    async def open(self) -> AsyncIterator[LogicalFeed | TableFeed]:
        """Take the lock, and be ready to read. Raises `OutboxError`."""
        connections, self._waiting = self._waiting or self._connect(), None
        try:
            leadership = await self._lead(connections)
            self._shutdown = connections.shutdown
            feed = await self._opened(leadership)
            try:
                yield feed
            except (PublicationChanged, SlotInvalidated) as error:
                # Whatever the next hold finds: this slot has left jobs out, or will.
                self._lost = str(error)
                raise
            finally:
                self._memory = feed.memory()
                feed.close()
                if feed.released:
                    self._switching.left(time.monotonic())
        finally:
            if connections is not self._waiting:
                await connections.lock.give_back()
                connections.close()

    def close(self) -> None:
        """Close what was kept open to stand by."""
        if self._waiting is not None:
            self._waiting.close()
            self._waiting = None

    def _connect(self) -> "_Connections":
        """Only polling goes without what a pooler takes away: see `Lock`."""
        connections = _Connections(
            self._conninfo, name=self._instance, pooled=self._reading.mode == "polling"
        )

        async def let_go() -> None:
            await connections.rest()
            await self._beside.rest()

        connections.shutdown = Shutdown(
            connections.control,
            consumer=self._consumer,
            grace=self._reading.shutdown_grace,
            let_go=let_go,
            notice=self._notice,
        )
        return connections

    async def _lead(self, connections: "_Connections") -> Leadership:
        try:
            return await lead(
                connections.control,
                connections.lock,
                consumer=self._consumer,
                schema=self._schema,
                instance=self._instance,
            )
        except SlotInUse:
            await connections.shutdown.look()
            # It will be asked again in a moment: no new connections for each time.
            self._waiting = connections
            raise

    async def _opened(self, leadership: Leadership) -> LogicalFeed | TableFeed:
        try:
            return await self._choose(leadership)
        except OutboxError:
            await leadership.hand_back()
            raise

    async def _choose(self, leadership: Leadership) -> LogicalFeed | TableFeed:
        checkpoint = await load(leadership)
        require_same_cluster(leadership, checkpoint)
        # What this process remembers of another history is worth nothing in this one.
        self._memory = self._memory.of(
            leadership.system,
            epoch=leadership.epoch,
            saved=LSN(0) if checkpoint is None else checkpoint.flushed,
        )
        if self._reading.mode == "polling":
            return await self._without_log(leadership, checkpoint)

        if checkpoint is not None and checkpoint.reconcile is not None:
            # Before anything is asked of a slot: what is half read is finished first.
            return self._table(leadership, checkpoint)

        if self._reading.mode == "logical":
            return await self._log(leadership, checkpoint)

        return await self._log_if_possible(leadership, checkpoint)

    async def _without_log(
        self, leadership: Leadership, checkpoint: Checkpoint | None
    ) -> LogicalFeed | TableFeed:
        """Poll, after the slot that was read so far is read to its end."""
        if leadership.slot is None or checkpoint is None or self._lost:
            return await self._polling(leadership, checkpoint)

        if checkpoint.reconcile is not None:
            return self._table(leadership, checkpoint)

        try:
            return await self._log(leadership, checkpoint, leave_at=leadership.inserted)
        except SlotInUse:
            raise
        except OutboxError as error:
            self._tell_unavailable(error)
            return await self._polling(leadership, checkpoint)

    async def _log_if_possible(
        self, leadership: Leadership, checkpoint: Checkpoint | None
    ) -> LogicalFeed | TableFeed:
        polls_until = self._switching.polls_until()
        if time.monotonic() >= polls_until:
            try:
                return await self._log(
                    leadership, checkpoint, max_retained=self._reading.max_retained_wal
                )
            except SlotInUse:
                raise
            except OutboxError as error:
                self._tell_unavailable(error)
                self._switching.left(time.monotonic())

        return await self._polling(
            leadership, checkpoint, polls_until=self._switching.polls_until()
        )

    def _tell_unavailable(self, error: OutboxError) -> None:
        self._notice(LogUnavailable(consumer=self._consumer, error=str(error), hint=error.hint))

    async def _log(
        self,
        leadership: Leadership,
        checkpoint: Checkpoint | None,
        *,
        leave_at: LSN | None = None,
        max_retained: int | None = None,
    ) -> LogicalFeed | TableFeed:
        feed = await open_log(
            self._conninfo,
            leadership,
            checkpoint,
            memory=self._memory,
            checkpoint_interval=self._reading.checkpoint_interval,
            policy=self._reading.slot_policy,
            lost=self._lost,
            wal_sender_timeout=self._reading.wal_sender_timeout,
            shutdown=self._shutdown,
            notice=self._notice,
            leave_at=leave_at,
            max_retained=max_retained,
        )
        self._lost = ""
        await leadership.note_mode("logical")
        if feed is not None:
            return feed

        # A new slot: first what it will not bring.
        planned = await load(leadership)
        assert planned is not None
        return self._table(leadership, planned)

    async def _polling(
        self,
        leadership: Leadership,
        checkpoint: Checkpoint | None,
        *,
        polls_until: float = float("inf"),
    ) -> TableFeed:
        await leadership.note_mode("polling")
        if leadership.slot is not None:
            await leadership.fenced("forget_slot", {}, doing="leave the slot")
            self._lost = ""

        return self._table(
            leadership,
            checkpoint or _nothing_read(leadership),
            poll_interval=self._reading.poll_interval,
            polls_until=polls_until,
        )

    def _table(
        self,
        leadership: Leadership,
        checkpoint: Checkpoint,
        *,
        poll_interval: float | None = None,
        polls_until: float = float("inf"),
    ) -> TableFeed:
        return TableFeed(
            leadership,
            checkpoint,
            memory=self._memory,
            slot=slot_name(self._schema, self._consumer, leadership.database_oid),
            poll_interval=poll_interval,
            polls_until=polls_until,
            shutdown=self._shutdown,
            notice=self._notice,
        )


class _Connections:
    """What a hold needs beside the log: one for its statements, and one that has the lock."""

    shutdown: Shutdown

    def __init__(self, conninfo: str, *, name: str, pooled: bool) -> None:
        self.control = Session(conninfo, name=name, reconnects=False, prepares=not pooled)
        self._holding = self.control
        if pooled:
            self._holding = Session(conninfo, name=name, reconnects=False, prepares=False)

        self.lock = Lock(self._holding, in_transaction=pooled)

    async def rest(self) -> None:
        """Close both, as soon as no statement runs on them."""
        await self.control.rest()
        await self._holding.rest()

    def close(self) -> None:
        """Close both."""
        self.control.close()
        self._holding.close()


def _nothing_read(leadership: Leadership) -> Checkpoint:
    return Checkpoint(
        system=leadership.system,
        snapshot=NOTHING_SEEN,
        lsn=LSN(0),
        flushed=LSN(0),
        reconcile=None,
    )
