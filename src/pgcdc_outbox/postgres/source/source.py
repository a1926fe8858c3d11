"""The source of jobs: takes hold of a consumer, and opens the feed that is to be read."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.errors import OutboxError, PublicationChanged, SlotInUse, SlotInvalidated
from pgcdc_outbox.postgres.session import Session
from pgcdc_outbox.postgres.source.choice import choose
from pgcdc_outbox.postgres.source.connections import Connections
from pgcdc_outbox.postgres.source.feed import LogicalFeed
from pgcdc_outbox.postgres.source.leadership import Leadership, lead
from pgcdc_outbox.postgres.source.past import Past
from pgcdc_outbox.postgres.source.reading import Reading
from pgcdc_outbox.postgres.source.shutdown import Shutdown
from pgcdc_outbox.postgres.source.table_feed import TableFeed


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
        self._waiting: Connections | None = None
        self._past = Past()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[LogicalFeed | TableFeed]:
        """Take the lock, and be ready to read. Raises `OutboxError`."""
        connections, self._waiting = self._waiting or self._connect(), None
        try:
            leadership = await self._lead(connections)
            feed = await self._feed(leadership, connections.shutdown)
            try:
                yield feed
            except (PublicationChanged, SlotInvalidated) as error:
                # Whatever the next hold finds: this slot has left jobs out, or will.
                self._past.lost = str(error)
                raise
            finally:
                self._past.memory = feed.memory()
                feed.close()
                if feed.released:
                    self._past.left_log()
        finally:
            if connections is not self._waiting:
                await connections.lock.give_back()
                connections.close()

    def close(self) -> None:
        """Close what was kept open to stand by."""
        if self._waiting is not None:
            self._waiting.close()
            self._waiting = None

    def _connect(self) -> Connections:
        return Connections(
            self._conninfo,
            consumer=self._consumer,
            instance=self._instance,
            # Only polling goes without what a pooler takes away: see `Lock`.
            pooled=self._reading.mode == "polling",
            grace=self._reading.shutdown_grace,
            beside=self._beside,
            notice=self._notice,
        )

    async def _lead(self, connections: Connections) -> Leadership:
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

    async def _feed(self, leadership: Leadership, shutdown: Shutdown) -> LogicalFeed | TableFeed:
        try:
            return await choose(
                self._conninfo,
                leadership,
                reading=self._reading,
                past=self._past,
                shutdown=shutdown,
                notice=self._notice,
            )
        except OutboxError:
            await leadership.hand_back()
            raise
