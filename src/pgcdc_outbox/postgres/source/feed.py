"""One hold of a consumer through its slot."""

import time

import anyio
from anyio.lowlevel import checkpoint as yield_to_others

from pgcdc_outbox.consumer.intake import Intake
from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.consumer.together import together
from pgcdc_outbox.core.ahead import Ahead
from pgcdc_outbox.core.batching import Batch
from pgcdc_outbox.core.feedback import report_interval
from pgcdc_outbox.core.progress import Progress
from pgcdc_outbox.core.shutdown import Burst
from pgcdc_outbox.core.silence import patience
from pgcdc_outbox.errors import PublicationChanged, PublicationMissing, ServerStopping
from pgcdc_outbox.events import CheckpointSaved, SlotReleased, Streaming
from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.postgres.source.advance import Advance
from pgcdc_outbox.postgres.source.checkpoint import Checkpointer
from pgcdc_outbox.postgres.source.decoding import Decoding
from pgcdc_outbox.postgres.source.leadership import Leadership
from pgcdc_outbox.postgres.source.memory import Memory
from pgcdc_outbox.postgres.source.publication import prove_unchanged
from pgcdc_outbox.postgres.source.reporter import Reporter
from pgcdc_outbox.postgres.source.shutdown import Shutdown
from pgcdc_outbox.postgres.source.start import Start
from pgcdc_outbox.postgres.source.stream import ReplicationStream
from pgcdc_outbox.postgres.source.traces import load_traces, save_traces

# Messages taken in before other tasks get their turn: about two milliseconds.
_BURST = 512

# As often as the server is told.
_KEEP_UP_SECONDS = 0.1

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
        self._notice = notice
        self._consumer = leadership.consumer
        self._checkpoint_interval = checkpoint_interval
        self._shutdown = shutdown
        # What this process settled after the last save; of no use for another slot,
        # and never beyond what the server still has after a crash of its own.
        position = start.position
        if position and position < memory.flushed <= leadership.flushed:
            position = memory.flushed

        self._progress = Progress(position)
        self._reporter = Reporter(
            stream,
            lambda: self._progress,
            saved=lambda: self._checkpointer.flushed,
            interval=report_interval(timeout),
            patience=patience(timeout),
            consumer=self._consumer,
            notice=notice,
        )
        self._caught_up = anyio.Event()
        self._over = anyio.Event()
        self._has_moved = anyio.Event()
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
        self._streaming = False
        self._advance = Advance(leadership, start.slot)
        self._memory = memory
        self.released = False
        """Whether the slot was left because it endangers the server."""
        self._leave_at = leave_at
        self._max_retained = max_retained
        self._ahead = Ahead()

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
        self._ahead.add(batch.jobs, batch.tickets, self._passed())
        if self._progress.flushed != before:
            self._moved()

    def memory(self) -> Memory:
        """What the next hold of this process should know."""
        return Memory(
            system=self._start.system,
            epoch=self.epoch,
            saved=self._checkpointer.durable,
            flushed=self._progress.flushed,
            settled=self._known_ahead(),
        )

    def _passed(self) -> LSN:
        """What was settled before it need not be remembered job by job."""
        # Who leaves the slot goes on from a snapshot, and that is older than flushed.
        horizon = self._progress.flushed
        if self._leave_at is not None:
            horizon = min(horizon, self._leave_at)

        return horizon if self._max_retained is None else min(horizon, self._checkpointer.lsn)

    def _known_ahead(self) -> dict[int, int]:
        """Attempts that are settled although reading may bring them again."""
        attempts = self._ahead.attempts(self._passed())
        # What earlier holds settled was committed before this one began. Until that
        # is passed it may come again in the next one, whether it came in this or not.
        if self._progress.flushed < self._leadership.inserted:
            for id_, attempt in self._memory.settled.items():
                attempts[id_] = max(attempt, attempts.get(id_, 0))

        return attempts

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
        await self._over.wait()

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
        decoding = Decoding(
            intake,
            self._progress,
            consumer=self._consumer,
            schema=self._leadership.schema,
            traces=await load_traces(
                self._leadership, since=self._start.replayed, settled=self._memory.settled
            ),
            skips_rows=lambda: self._stream.skips_rows,
        )
        self._notice(Streaming(consumer=self._consumer, position=self._progress.flushed))
        await together(
            lambda: self._read(decoding, intake),
            self._reporter.run,
            lambda: self._shutdown.bear(self._keep_checkpoint),
            lambda: self._shutdown.bear(self._keep_up),
            lambda: self._shutdown.bear(self._leadership.lock.keep),
            lambda: self._shutdown.drain(intake),
        )

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
            await self._prove_publication()
            await self._checkpointer.save(self._progress.flushed)

        await save_traces(self._leadership, self._known_ahead())
        if self._over.is_set():
            await self._leadership.fenced("forget_slot", {}, doing="leave the slot")

        await self._leadership.release()

    async def _report_last(self) -> None:
        await self._reporter.report()
        await self._stream.end()

    async def _read(self, decoding: Decoding, intake: Intake) -> None:
        burst = Burst()
        while not intake.closed and not self._shutdown.sign:
            decoding.now = time.monotonic()
            before = self._progress.flushed
            try:
                count = self._take_in(decoding)
            except PublicationMissing as error:
                await self._judge_skipping(error)
                continue

            if self._progress.flushed != before:
                self._moved()

            if count:
                self._reporter.heard(decoding.now)
                self._look_for_shutdown(burst, alone=decoding.asked and count == 1)

            if decoding.asked:
                decoding.asked = False
                self._reporter.asked()

            intake.release(idle=not count)
            if intake.full:
                await intake.room()
            elif count:
                await yield_to_others()
            else:
                await self._stream.readable()

        # Closed, or the server shuts down and would ask on and on: read no more, but let
        # the reports go on until the workers are done.
        await anyio.sleep_forever()

    def _look_for_shutdown(self, burst: Burst, *, alone: bool) -> None:
        """Note whether all that came is a keepalive that wants an answer."""
        if not alone:
            burst.data()
        elif burst.asked(self._progress.received, time.monotonic()):
            self._shutdown.tell("it asks for nothing but our position")

    def _take_in(self, decoding: Decoding) -> int:
        """What libpq holds, and then what the socket has; how many frames it was."""
        count = self._stream.drain(decoding.take_in, _BURST)
        if count < _BURST:
            self._stream.receive()
            count += self._stream.drain(decoding.take_in, _BURST)

        return count

    async def _look_at_retained(self, limit: int) -> None:
        """Leave the slot rather than let the server's disk fill up."""
        rows = await self._leadership.rows(
            "retained", {"slot": self._start.slot}, doing="look how much log the slot keeps"
        )
        if rows and rows[0][0] is not None and rows[0][0] > limit and not self._over.is_set():
            self._notice(
                SlotReleased(
                    consumer=self._consumer, slot=self._start.slot, retained_bytes=rows[0][0]
                )
            )
            self.released = True
            self._over.set()

    def _moved(self) -> None:
        if self._progress.flushed >= self._leadership.inserted:
            self._caught_up.set()

        if self._leave_at is not None and self._progress.flushed >= self._leave_at:
            self._over.set()

        self._advance.move(self._progress.flushed)
        self._has_moved.set()

    async def _judge_skipping(self, error: PublicationMissing) -> None:
        """Raise `PublicationChanged` if rows were left out: this slot will not bring them.

        The server warns with the same code when a standby that it waits for is away.
        """
        if not self._stream.skips_rows:
            raise PublicationChanged(str(error), hint=error.hint) from error

        await self._prove_publication()
        self._stream.skips_rows = False

    async def _prove_publication(self) -> None:
        await prove_unchanged(self._leadership, self._start.publication, since=self._start.snapshot)

    async def _keep_up(self) -> None:
        """Save how far everything is settled, and only then let the server know."""
        while True:
            with anyio.move_on_after(Checkpointer.OTHERS_SECONDS):
                await self._has_moved.wait()

            self._has_moved = anyio.Event()
            if await self._checkpointer.keep_up(self._progress.flushed):
                self._reporter.news()

            await anyio.sleep(_KEEP_UP_SECONDS)

    async def _keep_checkpoint(self) -> None:
        while True:
            # Before a position is saved, and after it was taken: see there.
            await self._prove_publication()
            if await self._checkpointer.step(self._progress.flushed):
                self._reporter.news()
                self._notice(
                    CheckpointSaved(consumer=self._consumer, position=self._progress.flushed)
                )

            if self._max_retained is not None:
                await self._look_at_retained(self._max_retained)

            await anyio.sleep(self._checkpoint_interval)
