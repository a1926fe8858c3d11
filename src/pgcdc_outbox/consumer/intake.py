"""Where the reader leaves jobs and the workers fetch them: bounded, with back-pressure."""

from collections.abc import Callable

import anyio

from pgcdc_outbox.core.batching import Batch, Batcher
from pgcdc_outbox.core.lanes import Lanes

Clock = Callable[[], float]


class Intake:
    """A bounded queue of batches between one reader and its workers.

    `put` never waits, so that the reader can drain what it has already
    received; it looks at `full` and waits in `room` before it reads on.
    """

    def __init__(
        self, batcher: Batcher | Lanes, *, max_jobs: int, max_bytes: int, clock: Clock
    ) -> None:
        self._batcher = batcher
        self._max_jobs = max_jobs
        self._max_bytes = max_bytes
        self._clock = clock
        self._idle = False
        self._changed = anyio.Event()
        self._taken = anyio.Event()
        self._paused = False
        self.closed = False
        self.handed_out = 0
        """How many batches the workers have taken."""
        self.put = batcher.add
        self.put_many = batcher.add_many
        self.put_dead = batcher.add_dead
        self.limit = batcher.limit

    @property
    def full(self) -> bool:
        """Whether the reader should stop reading."""
        return self._batcher.jobs >= self._max_jobs or self._batcher.size >= self._max_bytes

    @property
    def room_in_batch(self) -> int:
        """How many jobs, one at least, will go into the same batch as the next one."""
        return self._batcher.room

    def release(self, *, idle: bool) -> None:
        """Let the workers have what is ready; when idle, a batch that is not full too."""
        self._idle = idle
        if self._batcher.ready(self._clock(), idle=idle):
            self._changed.set()

    async def room(self) -> None:
        """Wait until a worker has taken something, or the intake is closed."""
        # A full intake is as good as an idle source: nothing more will come.
        self.release(idle=True)
        while self.full and not self.closed:
            self._taken = anyio.Event()
            await self._taken.wait()

    async def take(self) -> Batch | None:
        """The next batch, as soon as it should be handled; None once closed."""
        while not self.closed:
            if not self._paused and self._batcher.ready(self._clock(), idle=self._idle):
                self._taken.set()
                self.handed_out += 1
                return self._batcher.take()

            self._changed = anyio.Event() if self._changed.is_set() else self._changed
            await self._changed.wait()

        return None

    def done(self, batch: Batch) -> None:
        """A batch that was taken is done: what waits for its keys may be taken."""
        self._batcher.release(batch)
        if self._batcher.ready(self._clock(), idle=self._idle):
            self._changed.set()

    def pause(self) -> None:
        """Hand out nothing more, but let the workers wait: this is not the end of them."""
        self._paused = True

    def close(self) -> int:
        """Hand out nothing more. Returns how many jobs are left to the log."""
        self.closed = True
        self._changed.set()
        self._taken.set()
        return self._batcher.clear()
