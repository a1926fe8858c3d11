"""The orchestrator: take hold, run, and take hold again when the connection ends."""

import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import TypeVar

import anyio
from msgspec import Struct

from pgcdc_outbox.consumer.attempt import Attempt
from pgcdc_outbox.consumer.care import Care
from pgcdc_outbox.consumer.hold import Hold, finish
from pgcdc_outbox.consumer.intake import Intake
from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.consumer.parking import Clearing, Parking
from pgcdc_outbox.consumer.ports import Chore, Feed, Register, Source
from pgcdc_outbox.consumer.stop import Stop
from pgcdc_outbox.core.batching import Batcher
from pgcdc_outbox.core.crash import is_suspect
from pgcdc_outbox.core.lanes import Lanes, Ordering
from pgcdc_outbox.core.reconnect import Backoff
from pgcdc_outbox.core.verdict import goes_alone
from pgcdc_outbox.errors import AccessRefused, OutboxError, SlotInUse
from pgcdc_outbox.events import Connecting, Disconnected, StandingBy, Stopped
from pgcdc_outbox.lsn import LSN

# A hold that lasted so long was a good one: the next failure is a new story.
_GOOD_HOLD_SECONDS = 5.0
_STANDBY_SECONDS = (0.3, 0.7)

T = TypeVar("T")


class Limits(Struct, frozen=True, kw_only=True):
    """Sizes and times. Seconds and bytes; what they mean is said at `Consumer`."""

    batch_size: int
    batch_bytes: int
    linger: float
    concurrency: int
    prefetch: int
    prefetch_bytes: int
    drain_timeout: float
    ordering: Ordering = "none"


class Orchestrator:
    """Runs one named consumer until it is asked to stop."""

    def __init__(
        self,
        source: Source,
        attempt: Attempt,
        register: Register,
        *,
        limits: Limits,
        chores: Sequence[Chore],
        notice: Notice,
        keys: Parking | Clearing | None = None,
    ) -> None:
        """``keys`` is told of each hold before its first job."""
        self._keys = keys
        self._source = source
        self._attempt = attempt
        self._register = register
        self._limits = limits
        self._chores = chores
        self._notice = notice
        self._consumer = attempt.consumer
        self._abandoned = 0
        self._held = 0.0
        """When the last hold began, by the monotonic clock; 0 if there was none."""
        self._flushed = LSN(0)
        """How far the last hold got; 0 if there was none."""

    async def run(self, stop: Stop, *, once: bool = False) -> int:
        """Run until asked to stop; returns how many calls of the handler were abandoned.

        Raises the first `OutboxError` that is not transient.
        """
        try:
            return await self._run(stop, once=once)
        finally:
            self._source.close()

    async def _run(self, stop: Stop, *, once: bool) -> int:
        backoff = Backoff()
        standing_by = False
        self._abandoned = 0
        while not stop.asked:
            if not standing_by:
                self._notice(Connecting(consumer=self._consumer))

            started = time.monotonic()
            try:
                if await self._hold(stop, once=once):
                    continue  # with another feed, unless a stop was asked for

                break
            except SlotInUse as error:
                if not standing_by:
                    self._notice(StandingBy(consumer=self._consumer, holder=str(error)))

                standing_by = True
                delay = random.uniform(*_STANDBY_SECONDS)
            except OutboxError as error:
                # Who was let in before may be let in again: a password changes, a file is edited.
                if not error.transient and not (isinstance(error, AccessRefused) and self._held):
                    raise

                standing_by = False
                if self._held >= started and time.monotonic() - self._held > _GOOD_HOLD_SECONDS:
                    backoff.reset()

                delay = backoff.next(random.uniform)
                self._notice(
                    Disconnected(
                        consumer=self._consumer,
                        error=str(error),
                        hint=error.hint,
                        delay_seconds=delay,
                    )
                )

            with anyio.move_on_after(delay):
                await stop.wait()

        self._notice(Stopped(consumer=self._consumer, flushed=self._flushed))
        return self._abandoned

    async def _hold(self, stop: Stop, *, once: bool) -> bool:
        """Hold the consumer once. Whether it was let go of only to be taken again."""
        async with AsyncExitStack() as stack:
            feed = await _or_stop(stop, lambda: stack.enter_async_context(self._source.open()))
            if feed is None:
                return False

            intake = self._intake()
            self._held = time.monotonic()
            # It may have to write, which is tried for as long as the server is in trouble.
            care = await _or_stop(stop, lambda: self._care(feed, intake))
            if care is None:
                await finish(feed)
                self._flushed = feed.flushed
                return False

            hold = Hold(
                feed,
                intake,
                care,
                consumer=self._consumer,
                concurrency=self._limits.concurrency,
                chores=self._chores,
                drain_timeout=self._limits.drain_timeout,
                notice=self._notice,
                stop=stop,
                auditing=self._attempt.auditing,
            )
            try:
                await hold.run(once=once)
            finally:
                # Also if the connection was lost while it drained.
                self._abandoned = hold.abandoned
                self._flushed = feed.flushed

            return hold.handed_over

    async def _care(self, feed: Feed, intake: Intake) -> Care:
        if self._keys is not None:
            await self._keys.begin(feed.epoch)

        care = Care(
            self._attempt,
            self._register,
            feed,
            noted=await self._register.left(),
            held=self._limits.prefetch,
            relaxed=lambda: intake.limit(self._limits.batch_size),
        )
        await care.begin()
        if care.careful:
            intake.limit(1)

        return care

    def _intake(self) -> Intake:
        limits = self._limits
        parking = self._attempt.parking
        cut: Callable[..., Batcher | Lanes] = Batcher
        if limits.ordering != "none":
            cut = partial(Lanes, shares=parking.shares) if parking is not None else Lanes

        batcher = cut(
            max_jobs=limits.batch_size,
            max_bytes=limits.batch_bytes,
            max_age=limits.linger,
            alone=lambda job: goes_alone(job, self._attempt.policy) or is_suspect(job),
        )
        return Intake(
            batcher,
            max_jobs=limits.prefetch,
            max_bytes=limits.prefetch_bytes,
            clock=time.monotonic,
        )


async def _or_stop(stop: Stop, step: Callable[[], Awaitable[T]]) -> T | None:
    """Take a step that may wait long, unless a stop is asked for meanwhile."""
    result: T | None = None
    failure: Exception | None = None
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            await stop.wait()
            group.cancel_scope.cancel()

        group.start_soon(watch)
        try:
            result = await step()
        except Exception as error:
            # Raised outside, where no group wraps it.
            failure = error

        group.cancel_scope.cancel()

    if failure is not None:
        raise failure

    return result
