"""Reading the stream: frames into jobs, as fast as the intake takes them."""

import time
from collections.abc import Awaitable, Callable

import anyio
from anyio.lowlevel import checkpoint as yield_to_others

from pgcdc_outbox.consumer.intake import Intake
from pgcdc_outbox.core.progress import Progress
from pgcdc_outbox.core.shutdown import Burst
from pgcdc_outbox.errors import PublicationChanged, PublicationMissing
from pgcdc_outbox.postgres.source.decoding import Decoding
from pgcdc_outbox.postgres.source.pacing import Pacing
from pgcdc_outbox.postgres.source.reporter import Reporter
from pgcdc_outbox.postgres.source.shutdown import Shutdown
from pgcdc_outbox.postgres.source.stream import ReplicationStream

# Messages taken in before other tasks get their turn: about two milliseconds.
_BURST = 512


class Reader:
    """Reads until the intake is closed, and stops while it is full.

    It tells the reporter what it hears, and notices a server that shuts down.
    """

    def __init__(
        self,
        stream: ReplicationStream,
        decoding: Decoding,
        progress: Progress,
        reporter: Reporter,
        *,
        shutdown: Shutdown,
        moved: Callable[[], None],
        prove_publication: Callable[[], Awaitable[None]],
    ) -> None:
        """``moved`` is called when the position moved."""
        self._stream = stream
        self._decoding = decoding
        self._progress = progress
        self._reporter = reporter
        self._shutdown = shutdown
        self._moved = moved
        self._prove_publication = prove_publication

    async def run(self, intake: Intake) -> None:
        """Read until cancelled. Raises `OutboxError` when the stream ends, or makes no sense."""
        decoding = self._decoding
        burst, pacing = Burst(), Pacing(local=self._stream.is_local)
        while not intake.closed and not self._shutdown.sign:
            decoding.now = time.monotonic()
            before = self._progress.flushed
            try:
                count = self._stream.drain(decoding.take_in, _BURST)
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

            gathers = pacing.gathers(got=count, late=decoding.late)
            # Who is as good as caught up takes what there was. Otherwise what comes in a
            # moment may fill the batch.
            near = count < _BURST and pacing.is_near(decoding.late)
            intake.release(idle=not gathers and (near or not count))
            if intake.full:
                await intake.room()
            elif gathers and count < _BURST:
                await pacing.gather()
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

    async def _judge_skipping(self, error: PublicationMissing) -> None:
        """Raise `PublicationChanged` if rows were left out: this slot will not bring them.

        The server warns with the same code when a standby that it waits for is away.
        """
        if not self._stream.skips_rows:
            raise PublicationChanged(str(error), hint=error.hint) from error

        await self._prove_publication()
        self._stream.skips_rows = False
