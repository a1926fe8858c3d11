"""The source that reads the write-ahead log."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import anyio
from anyio.lowlevel import checkpoint as yield_to_others

from pgcdc_outbox.consumer.intake import Intake
from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.core.ahead import Ahead
from pgcdc_outbox.core.batching import Batch
from pgcdc_outbox.core.feedback import Feedback, report_interval
from pgcdc_outbox.core.progress import Progress
from pgcdc_outbox.errors import PublicationMissing, SourceUnavailable
from pgcdc_outbox.events import CheckpointSaved, LoopStalled, Reported, SlotCreated, Streaming
from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.postgres.checkpoint import Checkpointer, load
from pgcdc_outbox.postgres.decoding import Decoding
from pgcdc_outbox.postgres.leadership import Leadership, lead
from pgcdc_outbox.postgres.names import slot_name
from pgcdc_outbox.postgres.reconcile import Reconciliation
from pgcdc_outbox.postgres.session import Session
from pgcdc_outbox.postgres.slots import Start, find_start
from pgcdc_outbox.postgres.stream import ReplicationStream

# Messages taken in before other tasks get their turn: about two milliseconds.
_BURST = 512


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
    async def open(self) -> AsyncIterator["LogicalFeed"]:
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

    async def _feed(self, stream: ReplicationStream, leadership: Leadership) -> "LogicalFeed":
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
        self._feedback = Feedback(interval=interval)
        self._wake = anyio.Event()
        self._caught_up = anyio.Event()
        self._reconciliation: Reconciliation | None = None
        self._checkpointer = Checkpointer(
            leadership, start.system, snapshot=start.snapshot, lsn=start.lsn
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
            self._ahead.add(batch.jobs, batch.tickets, self._reconciliation.flushed)
            return

        before = self._progress.flushed
        self._progress.settle(batch.tickets)
        self._ahead.add(batch.jobs, batch.tickets, self._progress.flushed)
        if self._progress.flushed != before:
            self._moved()

    def ahead(self) -> dict[int, int]:
        """Attempts that are settled although `flushed` has not passed them."""
        stage = self._reconciliation or self._progress
        return self._ahead.attempts(stage.flushed)

    async def caught_up(self) -> None:
        """Return once everything committed before the hold began is settled."""
        await self._caught_up.wait()

    async def run(self, intake: Intake) -> None:
        """Deliver and report until cancelled. Raises `OutboxError` when the hold is lost."""
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
        await _together(
            lambda: self._read(decoding, intake),
            self._report,
            self._keep_checkpoint,
        )

    async def finish(self) -> None:
        """Report the last position, wait until the server has read it, and save it.

        What is settled beyond it is written down first, so that it does not
        come again: a stop may fall into the middle of a transaction.
        """
        if ahead := self.ahead():
            await self._leadership.fenced(
                "add_traces",
                {"ids": list(ahead), "attempts": list(ahead.values())},
                doing="write down what is settled ahead of the position",
            )

        if not self._streaming:
            return

        await self._stream.report(received=self._progress.received, flushed=self._progress.flushed)
        self._notice(Reported(consumer=self._consumer, flushed=self._progress.flushed))
        await self._stream.end(lambda frame: None)
        await self._checkpointer.save(self._progress.flushed)

    async def _reconcile(self, intake: Intake) -> bool:
        plan = self._start.reconcile
        assert plan is not None
        self._reconciliation = Reconciliation(
            self._leadership, plan, known=self._known, notice=self._notice
        )
        if not await self._reconciliation.run(intake):
            return False

        self._reconciliation = None
        self._ahead = Ahead()
        self._checkpointer = Checkpointer(
            self._leadership, self._start.system, snapshot=plan.target, lsn=plan.position
        )
        self._progress = Progress(plan.position)
        await self._checkpointer.save(plan.position)
        self._notice(CheckpointSaved(consumer=self._consumer, position=plan.position))
        return True

    async def _traces(self) -> dict[int, int]:
        rows = await self._leadership.rows(
            "load_traces",
            {"consumer": self._consumer, "since": self._start.replayed},
            doing="load what is recorded already",
        )
        # What this process settled before it lost its connection is in no table.
        return {**self._known, **dict(rows)}

    async def _read(self, decoding: Decoding, intake: Intake) -> None:
        stream = self._stream
        sink = decoding.on_frame
        while not intake.closed:
            decoding.now = time.monotonic()
            before = self._progress.flushed
            count = stream.drain(sink, _BURST)
            if count < _BURST:
                stream.receive()
                count += stream.drain(sink, _BURST)

            await self._heed()
            if self._progress.flushed != before or decoding.asked:
                self._answer(decoding)

            intake.release(idle=not count)
            if intake.full:
                await intake.room()
            elif count:
                await yield_to_others()
            else:
                await stream.readable()

        # Closed: read no more, but let the reports go on until the workers are done.
        await anyio.sleep_forever()

    async def _heed(self) -> None:
        """Version 18 and later only warn when rows are skipped for want of a publication."""
        if not self._stream.skips_rows:
            return

        # Nothing past this may be acknowledged; the table has what was skipped.
        await self._leadership.fenced("forget_slot", {}, doing="give up the slot")
        raise SourceUnavailable(
            "the server skips jobs: the publication is missing",
            hint=PublicationMissing.default_hint,
        )

    def _answer(self, decoding: Decoding) -> None:
        if decoding.asked:
            decoding.asked = False
            self._feedback.ask()

        self._moved()

    def _moved(self) -> None:
        if self._progress.flushed >= self._leadership.inserted:
            self._caught_up.set()

        self._feedback.settle()
        self._wake.set()

    async def _report(self) -> None:
        while True:
            now = time.monotonic()
            wait = self._feedback.wait(now)
            if wait > 0:
                await self._sleep(wait, now)
                continue

            await self._stream.report(
                received=self._progress.received, flushed=self._progress.flushed
            )
            self._feedback.reported(now)
            self._wake = anyio.Event()
            self._notice(Reported(consumer=self._consumer, flushed=self._progress.flushed))

    async def _sleep(self, wait: float, now: float) -> None:
        """Sleep until the next report, or until there is news."""
        if self._wake.is_set():
            await anyio.sleep(wait)
        else:
            with anyio.move_on_after(wait):
                await self._wake.wait()

        late = time.monotonic() - now - wait
        if late > self._feedback.interval:
            self._notice(LoopStalled(consumer=self._consumer, seconds=late))

    async def _keep_checkpoint(self) -> None:
        while True:
            if await self._checkpointer.step(self._progress.flushed):
                self._notice(
                    CheckpointSaved(consumer=self._consumer, position=self._progress.flushed)
                )

            await anyio.sleep(self._checkpoint_interval)


async def _together(*steps: Callable[[], Awaitable[None]]) -> None:
    """Run steps side by side; the first failure ends all, and is raised as it is."""
    failure: Exception | None = None
    async with anyio.create_task_group() as group:

        async def take(step: Callable[[], Awaitable[None]]) -> None:
            nonlocal failure
            try:
                await step()
            except Exception as error:
                failure = failure or error
                group.cancel_scope.cancel()

        for step in steps:
            group.start_soon(take, step)

    if failure is not None:
        raise failure
