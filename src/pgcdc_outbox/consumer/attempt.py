"""One execution of one batch: handle, record, then settle."""

import random
import time
from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from pgcdc_outbox.consumer.auditing import Auditing
from pgcdc_outbox.consumer.durably import durably
from pgcdc_outbox.consumer.handler import Handler, was_cancelled
from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.consumer.ports import Feed, Ledger
from pgcdc_outbox.core.batching import Batch
from pgcdc_outbox.core.call import Call, Execution
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
    redact: Redact | None = None
    audits_failures: bool = False
    """Whether calls that failed are kept together with the failure."""
    auditing: Auditing | None = None
    """Keeps the calls that succeeded; None if nobody wants them."""

    async def run(self, batch: Batch, feed: Feed) -> None:
        """Execute a batch. Raises only when its outcome could not be made durable."""
        if batch.dead:
            failures = [
                Failure(batch.jobs[0], Dead(UNDECODABLE), "Undecodable", bounded(batch.dead))
            ]
            await self._record(self._audited(failures, Call(time.perf_counter(), 0.0)), feed)
            self._settle(batch, feed)
        else:
            await self._execute(batch, feed)

    async def bury(self, batch: Batch, feed: Feed) -> None:
        """Judge jobs whose execution ended with its process; nothing is executed."""
        failures = [judge_crash(job, self.policy, jitter=random.uniform) for job in batch.jobs]
        await self._record(self._audited(failures, Call(time.perf_counter(), 0.0)), feed)
        for job in batch.jobs:
            self.notice(
                JobCrashed(consumer=self.consumer, id=job.id, topic=job.topic, attempt=job.attempt)
            )

        self._settle(batch, feed)

    def _settle(self, batch: Batch, feed: Feed) -> None:
        # Last, and only now: this lets PostgreSQL forget.
        feed.settle(batch)
        self.notice(BatchSettled(consumer=self.consumer, jobs=len(batch.jobs)))

    async def _execute(self, batch: Batch, feed: Feed) -> None:
        self.notice(
            BatchStarted(consumer=self.consumer, jobs=len(batch.jobs), first_id=batch.jobs[0].id)
        )
        call, failures = await self._handle(batch.jobs)
        if failures:
            await self._record(self._audited(failures, call), feed)

        if self.auditing is None or len(failures) == len(batch.jobs):
            self._settle(batch, feed)
        else:
            await self.auditing.add(
                _succeeded(batch.jobs, failures, call),
                size=batch.size,
                settle=lambda: self._settle(batch, feed),
            )

    def _audited(self, failures: list[Failure], call: Call) -> list[Failure]:
        """The failures, together with their call if that is to be kept."""
        if not self.audits_failures:
            return failures

        return [replace(failure, call=call) for failure in failures]

    async def _handle(self, jobs: Sequence[Job]) -> tuple[Call, list[Failure]]:
        began = time.perf_counter()
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

        call = Call(began, time.perf_counter() - began)
        self.notice(
            BatchHandled(
                consumer=self.consumer,
                jobs=len(jobs),
                failed=len(failures),
                seconds=call.seconds,
            )
        )
        return call, failures

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


def _succeeded(jobs: Sequence[Job], failures: Sequence[Failure], call: Call) -> Execution:
    if not failures:
        return Execution(jobs, call, len(jobs))

    failed = {failure.job.id for failure in failures}
    return Execution([job for job in jobs if job.id not in failed], call, len(jobs))
