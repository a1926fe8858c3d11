"""One hold of a consumer through its slot."""

import time
from collections.abc import Mapping
from typing import NoReturn

import anyio
from anyio.lowlevel import checkpoint as yield_to_others

from pgcdc_outbox.consumer.intake import Intake
from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.consumer.together import together
from pgcdc_outbox.core.ahead import Ahead
from pgcdc_outbox.core.batching import Batch
from pgcdc_outbox.core.progress import Progress
from pgcdc_outbox.errors import PublicationMissing, SourceUnavailable
from pgcdc_outbox.events import CheckpointSaved, Streaming
from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.postgres.source.checkpoint import Checkpointer
from pgcdc_outbox.postgres.source.decoding import Decoding
from pgcdc_outbox.postgres.source.leadership import Leadership
from pgcdc_outbox.postgres.source.reconcile import Reconciliation
from pgcdc_outbox.postgres.source.reporter import Reporter
from pgcdc_outbox.postgres.source.slots import Start
from pgcdc_outbox.postgres.source.stream import ReplicationStream

# Messages taken in before other tasks get their turn: about two milliseconds.
_BURST = 512


class LogicalFeed:
    """One hold: re-reads the table if it must, then streams and reports.

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
        resume: LSN,
        known: Mapping[int, int],
        interval: float,
        checkpoint_interval: float,
        notice: Notice,
    ) -> None:
        self.epoch = leadership.epoch
        self._stream = stream
        self._leadership = leadership
        self._start = start
        self._notice = notice
        self._consumer = leadership.consumer
        self._checkpoint_interval = checkpoint_interval
        # What this process settled after the last save; of no use for another slot,
        # and never beyond what the server still has after a crash of its own.
        position = start.position
        if not start.reconcile and position and position < resume <= leadership.flushed:
            position = resume

        self._progress = Progress(position)
        self._reporter = Reporter(
            stream,
            lambda: self._progress,
            interval=interval,
            consumer=self._consumer,
            notice=notice,
        )
        self._caught_up = anyio.Event()
        self._reconciliation: Reconciliation | None = None
        # The position of the start is the first to wait for, so that a run which is
        # shorter than the interval moves the checkpoint too.
        self._checkpointer = Checkpointer(
            leadership,
            start.system,
            snapshot=start.snapshot,
            lsn=start.lsn,
            pending=None if start.reconcile else (leadership.snapshot, leadership.inserted),
        )
        self._streaming = False
        self._known = known
        self._ahead = Ahead()

    @property
    def flushed(self) -> LSN:
        """Everything before it is settled."""
        return self._progress.flushed

    def settle(self, batch: Batch) -> None:
        """The fate of every job of the batch is durable."""
        self._checkpointer.settle()
        if self._reconciliation is not None:
            self._reconciliation.settle(batch)
            self._ahead.add(batch.jobs, batch.tickets, self._reconciliation.saved)
            return

        before = self._progress.flushed
        self._progress.settle(batch.tickets)
        self._ahead.add(batch.jobs, batch.tickets, self._progress.flushed)
        if self._progress.flushed != before:
            self._moved()

    def ahead(self) -> dict[int, int]:
        """Attempts that are settled although `flushed` has not passed them."""
        reading = self._reconciliation
        attempts = self._ahead.attempts(
            self._progress.flushed if reading is None else reading.saved
        )
        # What earlier holds settled was committed before this one began. Until that
        # is passed it may come again in the next one, whether it came in this or not.
        if reading is not None or self._progress.flushed < self._leadership.inserted:
            for id_, attempt in self._known.items():
                attempts[id_] = max(attempt, attempts.get(id_, 0))

        return attempts

    async def caught_up(self) -> None:
        """Return once everything committed before the hold began is settled."""
        await self._caught_up.wait()

    async def run(self, intake: Intake) -> None:
        """Deliver and report until cancelled. Raises `OutboxError` when the hold is lost."""
        try:
            await self._run(intake)
        except Exception:
            # Nobody reads or reports any more: a server that shuts down must not wait for it.
            self._stream.close()
            raise

    async def _run(self, intake: Intake) -> None:
        if self._start.reconcile is not None and not await self._reconcile(intake):
            await anyio.sleep_forever()

        await self._stream.start(
            self._start.slot,
            publication=self._start.publication,
            position=self._progress.flushed,
        )
        self._streaming = True
        decoding = Decoding(
            intake,
            self._progress,
            consumer=self._consumer,
            traces=await self._traces(),
            skips_rows=lambda: self._stream.skips_rows,
        )
        self._notice(Streaming(consumer=self._consumer, position=self._progress.flushed))
        await together(
            lambda: self._read(decoding, intake),
            self._reporter.run,
            self._keep_checkpoint,
        )

    async def finish(self) -> None:
        """Save the last position, report it, and wait until the server has read it.

        What is settled beyond it is written down first, so that it does not
        come again: a stop may fall into the middle of a transaction. The wait
        comes last, because a server that is busy sending may make it long.
        """
        if self._reconciliation is not None:
            await self._reconciliation.save()

        if ahead := self.ahead():
            await self._leadership.fenced(
                "add_traces",
                {"ids": list(ahead), "attempts": list(ahead.values())},
                doing="write down what is settled ahead of the position",
            )

        if self._streaming:
            await self._checkpointer.save(self._progress.flushed)

        await self._leadership.release()
        if not self._streaming:
            return

        await self._reporter.report()
        await self._stream.end()

    async def _reconcile(self, intake: Intake) -> bool:
        plan = self._start.reconcile
        assert plan is not None
        self._reconciliation = Reconciliation(
            self._leadership, plan, known=self._known, notice=self._notice
        )
        if not await self._reconciliation.run(intake):
            return False

        checkpointer = Checkpointer(
            self._leadership, self._start.system, snapshot=plan.target, lsn=plan.position
        )
        await checkpointer.save(plan.position)
        # Only now: until it is saved, the end of the table may be read once more.
        self._checkpointer = checkpointer
        self._progress = Progress(plan.position)
        self._reconciliation = None
        self._ahead = Ahead()
        self._notice(CheckpointSaved(consumer=self._consumer, position=plan.position))
        return True

    async def _traces(self) -> dict[int, int]:
        rows = await self._leadership.rows(
            "load_traces",
            {"consumer": self._consumer, "since": self._start.replayed},
            doing="load what is recorded already",
        )
        # What this process settled before it lost its connection is in no table.
        traces = dict(self._known)
        for id_, attempt in rows:
            traces[id_] = max(attempt, traces.get(id_, 0))

        return traces

    async def _read(self, decoding: Decoding, intake: Intake) -> None:
        while not intake.closed:
            decoding.now = time.monotonic()
            before = self._progress.flushed
            try:
                count = self._take_in(decoding)
            except PublicationMissing as error:
                await self._give_up_slot(error)

            if self._progress.flushed != before:
                self._moved()

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

        # Closed: read no more, but let the reports go on until the workers are done.
        await anyio.sleep_forever()

    def _take_in(self, decoding: Decoding) -> int:
        """What libpq holds, and then what the socket has; how many frames it was."""
        count = self._stream.drain(decoding.take_in, _BURST)
        if count < _BURST:
            self._stream.receive()
            count += self._stream.drain(decoding.take_in, _BURST)

        return count

    async def _give_up_slot(self, error: PublicationMissing) -> NoReturn:
        """Rows were decoded without the publication: this slot will not bring them.

        The next hold makes a new one, and the table has what was skipped.
        """
        await self._leadership.fenced("forget_slot", {}, doing="give up the slot")
        raise SourceUnavailable(str(error), hint=error.hint) from error

    def _moved(self) -> None:
        if self._progress.flushed >= self._leadership.inserted:
            self._caught_up.set()

        self._reporter.news()

    async def _keep_checkpoint(self) -> None:
        while True:
            if await self._checkpointer.step(self._progress.flushed):
                self._notice(
                    CheckpointSaved(consumer=self._consumer, position=self._progress.flushed)
                )

            await anyio.sleep(self._checkpoint_interval)
