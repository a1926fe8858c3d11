"""One execution of one batch: handle, record, then settle."""

import random
import time
from collections.abc import Sequence

from msgspec import Struct

from pgcdc_outbox.consumer.durably import durably
from pgcdc_outbox.consumer.handler import Handler, was_cancelled
from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.consumer.parking import Parking
from pgcdc_outbox.consumer.ports import Feed, Ledger
from pgcdc_outbox.core.batching import Batch
from pgcdc_outbox.core.crash import judge_crash
from pgcdc_outbox.core.retry import UNDECODABLE, Policy
from pgcdc_outbox.core.verdict import Failure, Redact, bounded, judge, judge_raised, read
from pgcdc_outbox.events import (
    BatchHandled,
    BatchSettled,
    BatchStarted,
    JobCrashed,
    JobDead,
    OutcomesRecorded,
)
from pgcdc_outbox.job import Job
from pgcdc_outbox.outcome import Dead


class Attempt(Struct, frozen=True, kw_only=True):
    """How a batch is executed: with which handler, judged by which policy."""

    consumer: str
    handler: Handler
    policy: Policy
    ledger: Ledger
    notice: Notice
    parking: Parking | None = None
    """Who looks after keys whose order is strict; None if it is not."""
    redact: Redact | None = None

    async def run(self, batch: Batch, feed: Feed) -> None:
        """Execute a batch. Raises only when its outcome could not be made durable."""
        if batch.dead:
            failures = [
                Failure(batch.jobs[0], Dead(UNDECODABLE), "Undecodable", bounded(batch.dead))
            ]
            await self._record(failures, feed)
            await self._settle(batch, failures, feed)
        elif self.parking is None:
            await self._execute(batch, feed)
        else:
            await self._execute_in_turn(batch, feed, self.parking)

    async def bury(self, batch: Batch, feed: Feed) -> None:
        """Judge jobs whose execution ended with its process; nothing is executed."""
        failures = [judge_crash(job, self.policy, jitter=random.uniform) for job in batch.jobs]
        await self._record(failures, feed)
        for job in batch.jobs:
            self.notice(
                JobCrashed(consumer=self.consumer, id=job.id, topic=job.topic, attempt=job.attempt)
            )

        await self._settle(batch, failures, feed)

    async def _settle(self, batch: Batch, failures: Sequence[Failure], feed: Feed) -> None:
        if self.parking is not None:
            await self.parking.settle(batch.jobs, failures, feed.epoch)

        # Last, and only now: this lets PostgreSQL forget.
        feed.settle(batch)
        self.notice(BatchSettled(consumer=self.consumer, jobs=len(batch.jobs)))

    async def _execute_in_turn(self, batch: Batch, feed: Feed, parking: Parking) -> None:
        while batch.jobs:
            admitted, batch = await parking.admit(batch, feed)
            if admitted.jobs:
                await self._execute(admitted, feed)

    async def _execute(self, batch: Batch, feed: Feed) -> None:
        self.notice(
            BatchStarted(consumer=self.consumer, jobs=len(batch.jobs), first_id=batch.jobs[0].id)
        )
        failures = await self._handle(batch.jobs)
        if failures:
            await self._record(failures, feed)

        await self._settle(batch, failures, feed)

    async def _handle(self, jobs: Sequence[Job]) -> list[Failure]:
        started = time.perf_counter()
        try:
            errors = read(await self.handler(jobs), jobs)
        except BaseException as error:
            # SystemExit and its like are failures of a job here: one bad job must
            # not end the consumer. Only our own cancellation goes through.
            if was_cancelled(error):
                raise

            failures = judge_raised(
                jobs, error, self.policy, jitter=random.uniform, redact=self.redact
            )
        else:
            failures = (
                judge(jobs, errors, self.policy, jitter=random.uniform, redact=self.redact)
                if errors
                else []
            )

        self.notice(
            BatchHandled(
                consumer=self.consumer,
                jobs=len(jobs),
                failed=len(failures),
                seconds=time.perf_counter() - started,
            )
        )
        return failures

    async def _record(self, failures: list[Failure], feed: Feed) -> None:
        await durably(
            lambda: self.ledger.record(failures, epoch=feed.epoch),
            doing="record outcomes",
            consumer=self.consumer,
            notice=self.notice,
        )
        dead = [failure for failure in failures if isinstance(failure.fate, Dead)]
        self.notice(
            OutcomesRecorded(
                consumer=self.consumer, retried=len(failures) - len(dead), dead=len(dead)
            )
        )
        for failure in dead:
            self.notice(
                JobDead(
                    consumer=self.consumer,
                    id=failure.job.id,
                    topic=failure.job.topic,
                    reason=str(failure.fate),
                )
            )
