"""Telling the server how far we are, on a clock of its own."""

import time
from collections.abc import Callable

import anyio

from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.core.feedback import Feedback
from pgcdc_outbox.core.progress import Progress
from pgcdc_outbox.events import LoopStalled, Reported
from pgcdc_outbox.postgres.source.stream import ReplicationStream


class Reporter:
    """Sends status updates: on time, soon after news, at once when asked.

    It runs beside the reader, so that neither a full intake nor a slow handler
    delays a report; only what blocks the event loop itself does, and is told.
    """

    def __init__(
        self,
        stream: ReplicationStream,
        progress: Callable[[], Progress],
        *,
        interval: float,
        consumer: str,
        notice: Notice,
    ) -> None:
        self._stream = stream
        self._progress = progress
        self._feedback = Feedback(interval=interval)
        self._consumer = consumer
        self._notice = notice
        self._wake = anyio.Event()

    def news(self) -> None:
        """The position moved."""
        self._feedback.settle()
        self._wake.set()

    def asked(self) -> None:
        """The server wants an answer."""
        self._feedback.ask()
        self._wake.set()

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            now = time.monotonic()
            wait = self._feedback.wait(now)
            if wait > 0:
                await self._sleep(wait, now)
                continue

            self._wake = anyio.Event()
            self._feedback.reported(now)
            await self.report()

    async def report(self) -> None:
        """Report now."""
        progress = self._progress()
        await self._stream.report(received=progress.received, flushed=progress.flushed)
        self._notice(Reported(consumer=self._consumer, flushed=progress.flushed))

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
