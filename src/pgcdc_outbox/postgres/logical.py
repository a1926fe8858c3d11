"""The source that reads the write-ahead log."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.core.feedback import report_interval
from pgcdc_outbox.events import SlotCreated
from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.postgres.checkpoint import load
from pgcdc_outbox.postgres.feed import LogicalFeed
from pgcdc_outbox.postgres.leadership import Leadership, lead
from pgcdc_outbox.postgres.names import slot_name
from pgcdc_outbox.postgres.session import Session
from pgcdc_outbox.postgres.slots import find_start
from pgcdc_outbox.postgres.stream import ReplicationStream


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
        self._resume = LSN(0)
        self._known: Mapping[int, int] = {}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[LogicalFeed]:
        """Lock, find or make the slot, and be ready to stream. Raises `OutboxError`."""
        control = Session(self._conninfo, name=self._instance, reconnects=False)
        stream: ReplicationStream | None = None
        try:
            leadership = await lead(
                control, consumer=self._consumer, schema=self._schema, instance=self._instance
            )
            stream = await ReplicationStream.open(self._conninfo, name=self._instance)
            feed = await self._feed(stream, leadership)
            try:
                yield feed
            finally:
                self._resume = feed.flushed
                self._known = feed.ahead()
        finally:
            if stream is not None:
                stream.close()

            control.close()

    async def _feed(self, stream: ReplicationStream, leadership: Leadership) -> LogicalFeed:
        slot = slot_name(self._schema, self._consumer, leadership.database_oid)
        start = await find_start(stream, leadership, await load(leadership), slot)
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
