"""One hold of a consumer: from an open feed to its end, orderly or not."""

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import anyio
from anyio.lowlevel import checkpoint as yield_to_others

from pgcdc_outbox.consumer.auditing import Auditing
from pgcdc_outbox.consumer.care import Care
from pgcdc_outbox.consumer.chores import keep_doing
from pgcdc_outbox.consumer.intake import Intake
from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.consumer.ports import Chore, Feed
from pgcdc_outbox.consumer.stop import Stop
from pgcdc_outbox.errors import Fenced, OutboxError, SourceUnavailable
from pgcdc_outbox.events import HandlersAbandoned, Stopping

_FINISH_SECONDS = 5.0
_EPOCH_SECONDS = 1.0
_TURN_SECONDS = 0.001


class Hold:
    """Reads, runs workers and does chores until asked to stop, or until it fails.

    Either way it ends in the same order: nothing more is handed out, running
    handlers get ``drain_timeout`` seconds, reports go on until they are done.
    """

    def __init__(
        self,
        feed: Feed,
        intake: Intake,
        care: Care,
        *,
        consumer: str,
        concurrency: int,
        chores: Sequence[Chore],
        drain_timeout: float,
        notice: Notice,
        stop: Stop,
        auditing: Auditing | None = None,
    ) -> None:
        self._feed = feed
        self._intake = intake
        self._care = care
        self._consumer = consumer
        self._concurrency = concurrency
        self._chores = chores
        self._drain_timeout = drain_timeout
        self._notice = notice
        self._stop = stop
        self._auditing = auditing
        self._workers = anyio.CancelScope()
        self._failure: Exception | None = None
        self._ending = anyio.Event()
        self.handed_over = False
        """Whether it ended because another feed is to go on; known when it has run."""
        self.abandoned = 0
        """How many calls of the handler did not end in time; known when it has run."""

    async def run(self, *, once: bool = False) -> None:
        """Run to the end. Raises what ended it, or failed while it drained.

        With ``once`` it stops itself when everything committed before the
        start is settled.
        """
        try:
            await self._run(once=once)
        except BaseException:
            # A cancellation, and it has to go through: asyncio does not repeat it.
            with suppress(OutboxError):
                await self._finish()

            raise

        await self._finish()

    async def _finish(self) -> None:
        if self._failure is None:
            await finish(self._feed)

    async def _run(self, *, once: bool) -> None:
        async with anyio.create_task_group() as reading:
            reading.start_soon(self._guard, lambda: self._feed.run(self._intake))
            reading.start_soon(self._close_when_asked)
            reading.start_soon(self._guard, self._close_when_over)
            reading.start_soon(self._guard, self._watch_epoch)
            if once or self._care.concerned:
                reading.start_soon(self._guard, lambda: self._when_caught_up(once=once))

            if self._care.concerned:
                reading.start_soon(self._guard, self._care.progressed)

            for chore in self._chores:
                reading.start_soon(self._guard, self._keep_doing(chore))

            if self._auditing is not None:
                self._auditing.begin()
                reading.start_soon(self._guard, self._auditing.run)

            reading.start_soon(self._bound_the_drain)
            with self._workers:
                await self._work()
                if self._auditing is not None:
                    await self._auditing.written()

            reading.cancel_scope.cancel()

        if self._failure is not None:
            raise self._failure

    async def _work(self) -> None:
        async with anyio.create_task_group() as working:
            for _ in range(self._concurrency):
                working.start_soon(self._guard, self._keep_working)

    async def _keep_working(self) -> None:
        yielded_at = time.monotonic()
        while (batch := await self._intake.take()) is not None:
            async with self._care.turn(batch):
                if self._intake.closed:
                    # While it waited for its turn. The log still holds it.
                    return

                await self._care.run(batch)

                self._intake.done(batch)

            # Neither a full intake nor a handler that never waits gives others a turn.
            if time.monotonic() - yielded_at > _TURN_SECONDS:
                await yield_to_others()
                yielded_at = time.monotonic()

    def _keep_doing(self, chore: Chore) -> Callable[[], Awaitable[None]]:
        return lambda: keep_doing(chore, consumer=self._consumer, notice=self._notice)

    async def _guard(self, step: Callable[[], Awaitable[None]]) -> None:
        """Take a step; its failure ends the hold in good order, not at once."""
        try:
            await step()
        except Exception as error:
            self._failure = self._failure or error
            self._end()
            if isinstance(error, Fenced):
                # Another instance runs these jobs now, and ours can record nothing.
                self._workers.cancel()

    async def _close_when_asked(self) -> None:
        await self._stop.wait()
        self._notice(Stopping(consumer=self._consumer))
        self._end()

    async def _close_when_over(self) -> None:
        await self._feed.over()
        await self._care.part_done()
        self.handed_over = True
        self._end()

    async def _watch_epoch(self) -> None:
        """Notice that another instance took over, also while nothing is to be recorded.

        A process may have been stopped or cut off for long, and does not know it.
        """
        while True:
            # What is wrong with the connection is the matter of those who need it.
            with suppress(SourceUnavailable):
                await self._care.check()

            await anyio.sleep(_EPOCH_SECONDS)

    async def _when_caught_up(self, *, once: bool) -> None:
        await self._feed.caught_up()
        await self._care.caught_up()
        if once:
            self._stop.ask()

    async def _bound_the_drain(self) -> None:
        await self._ending.wait()
        with anyio.move_on_after(self._drain_timeout):
            await self._stop.wait_insisted()

        # Not who only waits for its failures to be recorded: its call has ended.
        self.abandoned = self._care.calls
        if self.abandoned:
            self._notice(HandlersAbandoned(consumer=self._consumer, batches=self.abandoned))

        self._workers.cancel()

    def _end(self) -> None:
        self._intake.close()
        self._ending.set()


async def finish(feed: Feed) -> None:
    """Let go of a feed in good order, if the server answers in time. Raises `OutboxError`."""
    # Shielded: without the last report, finished work would come again.
    with anyio.move_on_after(_FINISH_SECONDS, shield=True):
        await feed.finish()
