"""What the log may bring again although it is settled: known, and written down."""

from pgcdc_outbox.core.ahead import Ahead
from pgcdc_outbox.core.batching import Batch
from pgcdc_outbox.core.progress import Progress
from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.postgres.source.checkpoint import Checkpointer
from pgcdc_outbox.postgres.source.leadership import Leadership
from pgcdc_outbox.postgres.source.leaving import Leaving
from pgcdc_outbox.postgres.source.memory import Memory
from pgcdc_outbox.postgres.source.traces import load_traces, save_traces


class Repeats:
    """Knows what this hold has settled ahead of its position, and what earlier ones had."""

    def __init__(
        self,
        leadership: Leadership,
        progress: Progress,
        checkpointer: Checkpointer,
        leaving: Leaving,
        memory: Memory,
    ) -> None:
        self._leadership = leadership
        self._progress = progress
        self._checkpointer = checkpointer
        self._leaving = leaving
        self._memory = memory
        self._ahead = Ahead()

    def settle(self, batch: Batch) -> None:
        """Note that every job of the batch is settled."""
        self._ahead.add(batch.jobs, batch.tickets, self._passed())

    def deliveries(self) -> dict[int, int]:
        """Deliveries that are settled although reading may bring them again."""
        deliveries = self._ahead.deliveries(self._passed())
        # What earlier holds settled was committed before this one began. Until that
        # is passed it may come again in the next one, whether it came in this or not.
        if self._progress.flushed < self._leadership.inserted:
            for id_, each in self._memory.settled.items():
                deliveries[id_] = max(each, deliveries.get(id_, 0))

        return deliveries

    async def load(self, since: str) -> dict[int, int]:
        """What was recorded after a snapshot, or is remembered. Raises `OutboxError`."""
        return await load_traces(self._leadership, since=since, remembered=self._memory.settled)

    async def save(self) -> None:
        """Write them down for the next hold. Raises `OutboxError`."""
        await save_traces(self._leadership, self.deliveries())

    def _passed(self) -> LSN:
        """What was settled before it need not be remembered job by job."""
        return self._leaving.again_from(self._progress.flushed, self._checkpointer.lsn)
