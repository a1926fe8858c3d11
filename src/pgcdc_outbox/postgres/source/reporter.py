"""Telling the server how far we are, on a clock of its own, and hearing whether it is there."""

import time
from collections.abc import Callable

import anyio

from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.core.feedback import Feedback
from pgcdc_outbox.core.progress import Progress
from pgcdc_outbox.core.silence import Silence
from pgcdc_outbox.errors import SourceUnavailable
from pgcdc_outbox.events import LoopStalled, Reported
from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.postgres.source.stream import ReplicationStream


class Reporter:
    """Sends status updates: on time, soon after news, at once when asked.

    It runs beside the reader, so that neither a full intake nor a slow handler
    delays a report; only what blocks the event loop itself does, and is told.
    A server that has been silent for long is asked to answer, and given up
    when it does not.
    """

    def __init__(
        self,
        stream: ReplicationStream,
        progress: Callable[[], Progress],
        *,
        saved: Callable[[], LSN],
        interval: float,
        patience: float,
        consumer: str,
        notice: Notice,
    ) -> None:
        self._stream = stream
        self._progress = progress
        self._saved = saved
        self._feedback = Feedback(interval=interval)
        self._silence = Silence(patience=patience, now=time.monotonic())
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

    def heard(self, now: float) -> None:
        """Something came from the server."""
        self._silence.heard(now)

    async def run(self) -> None:
        """Report until cancelled. Raises `SourceUnavailable` when the server is silent for long."""
        self.heard(time.monotonic())
        while True:
            now = time.monotonic()
            self._listen(now)
            wait = self._feedback.wait(now)
            if wait > 0:
                await self._sleep(min(wait, self._silence.wait(now)), now)
                continue

            self._wake = anyio.Event()
            self._feedback.reported(now)
            with anyio.move_on_after(self._silence.patience):
                await self.report(ask=self._silence.is_long(now))

    async def report(self, *, ask: bool = False) -> None:
        """Report now; ask for an answer, if need be."""
        progress = self._progress()
        flushed = min(progress.flushed, self._saved())
        await self._stream.report(received=progress.received, flushed=flushed, ask=ask)
        self._notice(Reported(consumer=self._consumer, flushed=flushed))

    def _listen(self, now: float) -> None:
        if not self._silence.is_over(now):
            return

        if self._stream.has_more:
            # It is we who do not read: the intake is full, or the event loop stood still.
            self._silence.heard(now)
            return

        raise SourceUnavailable(
            f"read the stream: the server has been silent for {self._silence.patience:.3g} s",
            hint="The network was cut, or the server hangs; the consumer connects again.",
        )

    async def _sleep(self, wait: float, now: float) -> None:
        """Sleep until the next report, or until there is news."""
        try:
            if self._wake.is_set():
                await anyio.sleep(wait)
            else:
                with anyio.move_on_after(wait):
                    await self._wake.wait()
        finally:
            # Also when cancelled: it was so long that the server has ended the connection.
            late = time.monotonic() - now - wait
            if late > self._feedback.interval:
                self._notice(LoopStalled(consumer=self._consumer, seconds=late))
