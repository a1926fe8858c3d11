"""Saving how far a hold of the log is settled: again and again, and a last time."""

from collections.abc import Callable

import anyio

from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.core.progress import Progress
from pgcdc_outbox.events import CheckpointSaved
from pgcdc_outbox.postgres.source.checkpoint import Checkpointer
from pgcdc_outbox.postgres.source.leadership import Leadership
from pgcdc_outbox.postgres.source.leaving import Leaving
from pgcdc_outbox.postgres.source.publication import prove_unchanged
from pgcdc_outbox.postgres.source.start import Start

# As often as the server is told.
_KEEP_UP_SECONDS = 0.1


class Saving:
    """Saves positions, each after the proof that no row before it was left out.

    Two tasks: one follows the position closely and saves the place alone; the other
    saves the checkpoint now and then, and looks whether the slot may stay.
    """

    def __init__(
        self,
        leadership: Leadership,
        start: Start,
        progress: Progress,
        checkpointer: Checkpointer,
        leaving: Leaving,
        *,
        interval: float,
        saved: Callable[[], None],
        notice: Notice,
    ) -> None:
        """``interval`` is the seconds between checkpoints; ``saved`` is called after each save."""
        self._leadership = leadership
        self._start = start
        self._progress = progress
        self._checkpointer = checkpointer
        self._leaving = leaving
        self._interval = interval
        self._saved = saved
        self._notice = notice
        self._has_moved = anyio.Event()

    def move(self) -> None:
        """The position moved."""
        self._has_moved.set()

    async def keep_up(self) -> None:
        """Save how far everything is settled, and only then let the server know."""
        while True:
            with anyio.move_on_after(Checkpointer.OTHERS_SECONDS):
                await self._has_moved.wait()

            self._has_moved = anyio.Event()
            if await self._checkpointer.keep_up(self._progress.flushed):
                self._saved()

            await anyio.sleep(_KEEP_UP_SECONDS)

    async def keep_checkpoint(self) -> None:
        """Take positions and save them, as long as the slot may stay."""
        while True:
            # Before a position is saved, and after it was taken: see there.
            await self.prove_publication()
            if await self._checkpointer.step(self._progress.flushed):
                self._saved()
                self._notice(
                    CheckpointSaved(
                        consumer=self._leadership.consumer, position=self._progress.flushed
                    )
                )

            await self._leaving.look_at_retained()
            await anyio.sleep(self._interval)

    async def save(self) -> None:
        """Save the last position."""
        await self.prove_publication()
        await self._checkpointer.save(self._progress.flushed)

    async def prove_publication(self) -> None:
        """Return once it is certain that the slot left no row out."""
        await prove_unchanged(self._leadership, self._start.publication, since=self._start.snapshot)
