"""One hold of a consumer through its slot."""

import anyio

from pgcdc_outbox.consumer.intake import Intake
from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.consumer.together import together
from pgcdc_outbox.core.batching import Batch
from pgcdc_outbox.core.feedback import report_interval
from pgcdc_outbox.core.progress import Progress
from pgcdc_outbox.core.silence import patience
from pgcdc_outbox.errors import ServerStopping
from pgcdc_outbox.events import Streaming
from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.postgres.source.advance import Advance
from pgcdc_outbox.postgres.source.checkpoint import Checkpointer
from pgcdc_outbox.postgres.source.decoding import Decoding
from pgcdc_outbox.postgres.source.leadership import Leadership
from pgcdc_outbox.postgres.source.leaving import Leaving
from pgcdc_outbox.postgres.source.memory import Memory
from pgcdc_outbox.postgres.source.reader import Reader
from pgcdc_outbox.postgres.source.repeats import Repeats
from pgcdc_outbox.postgres.source.reporter import Reporter
from pgcdc_outbox.postgres.source.saving import Saving
from pgcdc_outbox.postgres.source.shutdown import Shutdown
from pgcdc_outbox.postgres.source.start import Start
from pgcdc_outbox.postgres.source.stream import ReplicationStream

# How often the server is asked what it knows, while somebody waits for progress.
_PROGRESS_SECONDS = 0.2


class LogicalFeed:
    """One hold: streams and reports.

    Two tasks share the connection, and nobody else: one reads, and stops when
    the intake is full; the other reports on its own clock, whatever the first
    one and the handler are doing.
    """

    def __init__(
        self,
        stream: ReplicationStream,
        leadership: Leadership,
        start: Start,
        *,
        memory: Memory,
        timeout: float,
        checkpoint_interval: float,
        shutdown: Shutdown,
        notice: Notice,
        leave_at: LSN | None = None,
        max_retained: int | None = None,
    ) -> None:
        self.epoch = leadership.epoch
        self.crashes = leadership.crashes
        self._stream = stream
        self._leadership = leadership
        self._start = start
        self._shutdown = shutdown
        self._notice = notice
        self._consumer = leadership.consumer
        self._progress = Progress(_position(leadership, start, memory))
        # The position of the start is the first to wait for, so that a run which is
        # shorter than the interval moves the checkpoint too.
        self._checkpointer = Checkpointer(
            leadership,
            start.system,
            snapshot=start.snapshot,
            lsn=start.lsn,
            flushed=start.saved,
            pending=(leadership.snapshot, leadership.inserted),
        )
        self._reporter = Reporter(
            stream,
            lambda: self._progress,
            saved=lambda: self._checkpointer.flushed,
            interval=report_interval(timeout),
            patience=patience(timeout),
            consumer=self._consumer,
            notice=notice,
        )
        self._leaving = Leaving(
            leadership, start.slot, at=leave_at, max_retained=max_retained, notice=notice
        )
        self._saving = Saving(
            leadership,
            start,
            self._progress,
            self._checkpointer,
            self._leaving,
            interval=checkpoint_interval,
            saved=self._reporter.news,
            notice=notice,
        )
        self._advance = Advance(leadership, start.slot)
        self._repeats = Repeats(
            leadership, self._progress, self._checkpointer, self._leaving, memory
        )
        self._caught_up = anyio.Event()
        self._streaming = False

    @property
    def released(self) -> bool:
        """Whether the slot was left because it endangers the server."""
        return self._leaving.released

    @property
    def flushed(self) -> LSN:
        """Everything before it is settled."""
        return self._progress.flushed

    def settle(self, batch: Batch) -> None:
        """The fate of every job of the batch is durable."""
        self._advance.settle()
        self._shutdown.settled()
        self._checkpointer.settle()
        before = self._progress.flushed
        self._progress.settle(batch.tickets)
        self._repeats.settle(batch)
        if self._progress.flushed != before:
            self._moved()

    def memory(self) -> Memory:
        """What the next hold of this process should know."""
        return Memory(
            system=self._start.system,
            epoch=self.epoch,
            saved=self._checkpointer.durable,
            flushed=self._progress.flushed,
            settled=self._repeats.deliveries(),
        )

    async def caught_up(self) -> None:
        """Return once everything committed before the hold began is settled."""
        await self._caught_up.wait()

    async def progressed(self) -> None:
        """Return once something that this hold settled cannot come again, even after a crash."""
        while True:
            if await self._advance.confirmed():
                return

            await anyio.sleep(_PROGRESS_SECONDS)

    async def over(self) -> None:
        """Return when the slot is to be left, and another feed shall go on."""
        await self._leaving.over()

    def close(self) -> None:
        """Close the connection at once."""
        self._stream.close()

    async def run(self, intake: Intake) -> None:
        """Deliver and report until cancelled. Raises `OutboxError` when the hold is lost."""
        try:
            await self._run(intake)
        except ServerStopping:
            await self._shutdown.leave(self._save, self._report_last)
            self._stream.close()
            raise
        except Exception:
            # Nobody reads or reports any more: a server that shuts down must not wait for it.
            self._stream.close()
            raise

    async def _run(self, intake: Intake) -> None:
        await self._stream.start(
            self._start.slot,
            publication=self._start.publication.name,
            position=self._progress.flushed,
        )
        self._streaming = True
        reader = await self._reader(intake)
        self._notice(Streaming(consumer=self._consumer, position=self._progress.flushed))
        bear = self._shutdown.bear
        await together(
            lambda: reader.run(intake),
            self._reporter.run,
            lambda: bear(self._saving.keep_checkpoint),
            lambda: bear(self._saving.keep_up),
            lambda: bear(self._leadership.lock.keep),
            lambda: self._shutdown.drain(intake),
        )

    async def _reader(self, intake: Intake) -> Reader:
        """A reader that knows which jobs of the log are settled already."""
        decoding = Decoding(
            intake,
            self._progress,
            consumer=self._consumer,
            schema=self._leadership.schema,
            traces=await self._repeats.load(self._start.replayed),
            skips_rows=lambda: self._stream.skips_rows,
        )
        return Reader(
            self._stream,
            decoding,
            self._progress,
            self._reporter,
            shutdown=self._shutdown,
            moved=self._moved,
            prove_publication=self._saving.prove_publication,
        )

    def _moved(self) -> None:
        flushed = self._progress.flushed
        if flushed >= self._leadership.inserted:
            self._caught_up.set()

        self._leaving.move(flushed)
        self._advance.move(flushed)
        self._saving.move()

    async def finish(self) -> None:
        """Save the last position, report it, and wait until the server has read it.

        What is settled beyond it is written down first, so that it does not
        come again: a stop may fall into the middle of a transaction. The wait
        comes last, because a server that is busy sending may make it long.
        """
        await self._save()
        if self._streaming:
            await self._report_last()

    async def _save(self) -> None:
        if self._streaming:
            await self._saving.save()

        await self._repeats.save()
        await self._leaving.forget()
        await self._leadership.release()

    async def _report_last(self) -> None:
        await self._reporter.report()
        await self._stream.end()


def _position(leadership: Leadership, start: Start, memory: Memory) -> LSN:
    """Where to read on: where the start says, or where this process had got to itself."""
    # What it settled after the last save is of no use for another slot, and never
    # beyond what the server still has after a crash of its own.
    if start.position and start.position < memory.flushed <= leadership.flushed:
        return memory.flushed

    return start.position
