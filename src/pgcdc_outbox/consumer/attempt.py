"""One execution of one batch: handle, record, then settle."""

import random
import time
from collections.abc import Sequence

import anyio
from msgspec import Struct

from pgcdc_outbox.consumer.handler import Handler, was_cancelled
from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.consumer.ports import Feed, Ledger
from pgcdc_outbox.core.batching import Batch
from pgcdc_outbox.core.reconnect import Backoff
from pgcdc_outbox.core.retry import UNDECODABLE, Policy
from pgcdc_outbox.core.verdict import Failure, Redact, bounded, judge, judge_raised, read
from pgcdc_outbox.errors import LedgerUnavailable
from pgcdc_outbox.events import (
    BatchHandled,
    BatchSettled,
    BatchStarted,
    ChoreFailed,
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
    redact: Redact | None = None

    async def run(self, batch: Batch, feed: Feed) -> None:
        """Execute a batch. Raises only when its outcome could not be made durable."""
        if batch.dead:
            failures = [
                Failure(batch.jobs[0], Dead(UNDECODABLE), "Undecodable", bounded(batch.dead))
            ]
            await self._record(failures, feed)
        else:
            await self._execute(batch, feed)

        # Last, and only now: this lets PostgreSQL forget.
        feed.settle(batch)
        self.notice(BatchSettled(consumer=self.consumer, jobs=len(batch.jobs)))

    async def _execute(self, batch: Batch, feed: Feed) -> None:
        self.notice(
            BatchStarted(consumer=self.consumer, jobs=len(batch.jobs), first_id=batch.jobs[0].id)
        )
        failures = await self._handle(batch.jobs)
        if failures:
            await self._record(failures, feed)

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
        backoff = Backoff()
        while True:
            try:
                await self.ledger.record(failures, epoch=feed.epoch)
            except LedgerUnavailable as error:
                delay = backoff.next(random.uniform)
                self.notice(
                    ChoreFailed(
                        consumer=self.consumer,
                        chore="record outcomes",
                        error=str(error),
                        delay_seconds=delay,
                    )
                )
                await anyio.sleep(delay)
            else:
                break

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
