"""Keeping a trail of what was executed, without keeping workers waiting for it."""

from collections.abc import Callable

import anyio

from pgcdc_outbox.consumer.durably import durably
from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.consumer.ports import Trail
from pgcdc_outbox.core.call import Execution

# What may be executed and not written yet. One write takes what has gathered during
# the one before, so that they are few and large when there is much to do.
_MOST_JOBS = 20_000
_MOST_BYTES = 64 * 1024 * 1024

Settle = Callable[[], None]


class Auditing:
    """Settles executions when they are written, and not before.

    Workers go on meanwhile, until too much is unwritten. What is lost with the
    process was not settled either: those jobs come again.
    """

    def __init__(self, trail: Trail, *, consumer: str, notice: Notice) -> None:
        self._trail = trail
        self._consumer = consumer
        self._notice = notice
        self._waiting: list[tuple[Execution, Settle]] = []
        self._jobs = 0
        self._bytes = 0
        self._news = anyio.Event()
        self._wrote = anyio.Event()
        self._ended = False

    def begin(self) -> None:
        """A hold begins. What an earlier one left unwritten comes again."""
        self._waiting, self._jobs, self._bytes, self._ended = [], 0, 0, False
        self._news = anyio.Event()

    async def add(self, execution: Execution, *, size: int, settle: Settle) -> None:
        """Have an execution written, and settled then. Waits while too much is unwritten.

        ``size`` is the bytes that its jobs take in memory.
        """
        self._waiting.append((execution, settle))
        self._jobs += len(execution.jobs)
        self._bytes += size
        self._news.set()
        while self._is_full and not self._ended:
            await self._wrote.wait()

    async def run(self) -> None:
        """Write what comes, until cancelled. Raises what cannot be mended by trying again."""
        try:
            while True:
                await self._news.wait()
                self._news = anyio.Event()
                await self._write()
        finally:
            self._ended = True
            self._wrote.set()

    async def written(self) -> None:
        """Return when everything that was added is settled, or never will be."""
        while self._jobs and not self._ended:
            await self._wrote.wait()

    async def _write(self) -> None:
        waiting, jobs, size = self._waiting, self._jobs, self._bytes
        self._waiting = []
        await durably(
            lambda: self._trail.write([execution for execution, _ in waiting]),
            doing="write down what was executed",
            consumer=self._consumer,
            notice=self._notice,
        )
        for _, settle in waiting:
            settle()

        self._jobs -= jobs
        self._bytes -= size
        wrote, self._wrote = self._wrote, anyio.Event()
        wrote.set()

    @property
    def _is_full(self) -> bool:
        return self._jobs >= _MOST_JOBS or self._bytes >= _MOST_BYTES
