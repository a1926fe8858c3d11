"""The source that reads the write-ahead log."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.core.feedback import report_interval
from pgcdc_outbox.errors import SlotInUse, SourceUnavailable
from pgcdc_outbox.events import SlotCreated
from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.postgres.names import slot_name
from pgcdc_outbox.postgres.session import Session
from pgcdc_outbox.postgres.source.checkpoint import System, load
from pgcdc_outbox.postgres.source.feed import LogicalFeed
from pgcdc_outbox.postgres.source.leadership import Leadership, lead
from pgcdc_outbox.postgres.source.slots import find_start
from pgcdc_outbox.postgres.source.stream import ReplicationStream


class LogicalSource:
    """Takes hold of a consumer and reads its slot."""

    def __init__(
        self,
        conninfo: str,
        *,
        consumer: str,
        schema: str,
        instance: str,
        checkpoint_interval: float,
        notice: Notice,
    ) -> None:
        self._conninfo = conninfo
        self._consumer = consumer
        self._schema = schema
        self._instance = instance
        self._checkpoint_interval = checkpoint_interval
        self._notice = notice
        self._waiting: Session | None = None
        self._system: System | None = None
        self._resume = LSN(0)
        self._known: Mapping[int, int] = {}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[LogicalFeed]:
        """Lock, find or make the slot, and be ready to stream. Raises `OutboxError`."""
        control, self._waiting = self._waiting or self._connection(), None
        stream: ReplicationStream | None = None
        try:
            leadership = await self._lead(control)
            stream = await self._stream(leadership)
            feed = await self._feed(stream, leadership)
            try:
                yield feed
            finally:
                self._resume = feed.flushed
                self._known = feed.ahead()
        finally:
            if stream is not None:
                stream.close()

            if control is not self._waiting:
                control.close()

    def close(self) -> None:
        """Close what was kept open to stand by."""
        if self._waiting is not None:
            self._waiting.close()
            self._waiting = None

    async def _lead(self, control: Session) -> Leadership:
        try:
            return await lead(
                control,
                consumer=self._consumer,
                schema=self._schema,
                instance=self._instance,
                mode="logical",
            )
        except SlotInUse:
            # It will be asked again in a moment: no new connection for each time.
            self._waiting = control
            raise

    async def _stream(self, leadership: Leadership) -> ReplicationStream:
        try:
            return await ReplicationStream.open(self._conninfo, name=self._instance)
        except SourceUnavailable as error:
            # A role that may not replicate is refused without an SQLSTATE.
            if refusal := await leadership.why_no_replication():
                raise refusal from error

            raise

    def _connection(self) -> Session:
        return Session(self._conninfo, name=self._instance, reconnects=False)

    async def _feed(self, stream: ReplicationStream, leadership: Leadership) -> LogicalFeed:
        slot = slot_name(self._schema, self._consumer, leadership.database_oid)
        start = await find_start(
            stream, leadership, await load(leadership), slot, reported=self._resume
        )
        if start.system != self._system:
            # Another history: what this process remembers of the old one may be of
            # transactions that never were, and ids are given out again.
            self._system, self._resume, self._known = start.system, LSN(0), {}

        if start.created:
            self._notice(
                SlotCreated(
                    consumer=self._consumer,
                    slot=slot,
                    position=start.position,
                    reason=start.created,
                )
            )

        ((timeout,),) = await stream.query(
            "select setting from pg_settings where name = 'wal_sender_timeout'",
            doing="ask for wal_sender_timeout",
        )
        return LogicalFeed(
            stream,
            leadership,
            start,
            resume=self._resume,
            known=self._known,
            interval=report_interval(int(timeout or 0) / 1000),
            checkpoint_interval=self._checkpoint_interval,
            notice=self._notice,
        )
