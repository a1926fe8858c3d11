"""One execution of one batch: handle, record, then settle."""

import random
import time
from collections.abc import Container, Mapping, Sequence
from functools import partial
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from pgcdc_outbox.consumer.auditing import Auditing
from pgcdc_outbox.consumer.calling import call_handler
from pgcdc_outbox.consumer.durably import durably
from pgcdc_outbox.consumer.expiry import Expiry
from pgcdc_outbox.consumer.handler import Handler
from pgcdc_outbox.consumer.notice import Notice, tell_failures
from pgcdc_outbox.consumer.parking import Parking
from pgcdc_outbox.consumer.ports import Feed, Ledger, Unit, Units
from pgcdc_outbox.consumer.settlement import Settlement
from pgcdc_outbox.core.batching import Batch
from pgcdc_outbox.core.call import Call, Execution
from pgcdc_outbox.core.crash import Started, judge_crash
from pgcdc_outbox.core.once import judge_unfinished
from pgcdc_outbox.core.retry import UNDECODABLE, Policy
from pgcdc_outbox.core.verdict import Failure, Redact, bounded
from pgcdc_outbox.events import BatchHandled, BatchSettled, BatchStarted, JobCrashed
from pgcdc_outbox.job import Job
from pgcdc_outbox.outcome import Dead, Snooze

_NOTHING: Final = Batch()


class Attempt(Struct, frozen=True, kw_only=True):
    """How a batch is executed: with which handler, judged by which policy."""

    consumer: str
    handler: Handler
    policy: Policy
    ledger: Ledger
    units: Units
    settlement: Settlement
    expiry: Expiry
    notice: Notice
    parking: Parking | None = None
    """Who looks after keys whose order is strict; None if it is not."""
    redact: Redact | None = None
    audits_failures: bool = False
    """Whether calls that failed are kept together with the failure."""
    auditing: Auditing | None = None
    """Keeps the calls that succeeded; None if nobody wants them."""

    async def run(self, batch: Batch, feed: Feed) -> None:
        """Execute a batch. Raises only when its outcome could not be made durable."""
        if batch.dead:
            failure = Failure(batch.jobs[0], Dead(UNDECODABLE), "Undecodable", bounded(batch.dead))
            failures = self._audited([failure], _no_call())
            await self._record(failures, feed)
            await self._finish(batch, failures, feed)
            return

        while batch.jobs:
            admitted, batch = await self._admit(batch, feed)
            if admitted.jobs:
                await self._run(admitted, feed)

    async def bury(self, batch: Batch, feed: Feed) -> bool:
        """Judge jobs whose execution ended with its process; nothing is executed.

        Returns whether there were any: one whose key is held by another was not
        executed, whatever was noted, and is parked.
        """
        found = False
        while batch.jobs:
            crashed, batch = await self._admit(batch, feed)
            if crashed.jobs:
                await self._bury(crashed, feed)
                found = True

        return found

    async def _bury(self, batch: Batch, feed: Feed) -> None:
        failures = [judge_crash(job, self.policy, jitter=random.uniform) for job in batch.jobs]
        await self._record(self._audited(failures, _no_call()), feed)
        for job in batch.jobs:
            self.notice(
                JobCrashed(consumer=self.consumer, id=job.id, topic=job.topic, attempt=job.attempt)
            )

        await self._finish(batch, failures, feed)

    async def doubt(self, batch: Batch, notes: Mapping[int, Started], feed: Feed) -> None:
        """Put jobs aside that were to run once and began to; nothing is executed."""
        failures = [judge_unfinished(job, notes[job.id]) for job in batch.jobs]
        await self._record(self._audited(failures, _no_call()), feed)
        await self._finish(batch, failures, feed)

    async def _finish(
        self,
        batch: Batch,
        failures: Sequence[Failure],
        feed: Feed,
        unwritten: Execution | None = None,
    ) -> None:
        """Let those go that waited for these jobs, write what is to be kept, then settle."""
        if self.parking is not None:
            await self.parking.settle(batch.jobs, failures, feed.epoch)

        if unwritten is None or self.auditing is None:
            self._settle(batch, feed)
        else:
            settle = partial(self._settle, batch, feed)
            await self.auditing.add(unwritten, size=batch.size, settle=settle)

    def _settle(self, batch: Batch, feed: Feed) -> None:
        # Last, and only now: this lets PostgreSQL forget.
        feed.settle(batch)
        self.notice(BatchSettled(consumer=self.consumer, jobs=len(batch.jobs)))

    async def _admit(self, batch: Batch, feed: Feed) -> tuple[Batch, Batch]:
        """What may run now, and what comes after that; the rest is parked."""
        return (batch, _NOTHING) if self.parking is None else await self.parking.admit(batch, feed)

    async def _run(self, batch: Batch, feed: Feed) -> None:
        late = await self._late(batch, feed)
        gone = {failure.job.id for failure in late}
        jobs = [job for job in batch.jobs if job.id not in gone] if late else batch.jobs
        failures, unwritten = await self._execute(jobs, feed) if jobs else ([], None)
        await self._finish(batch, [*late, *failures], feed, unwritten)

    async def _late(self, batch: Batch, feed: Feed) -> list[Failure]:
        """The jobs that may not be started any more, recorded as dead."""
        late = await self.expiry.judge(batch.jobs) if batch.expires else []
        if late:
            await self._record(late, feed)

        return late

    async def _execute(
        self, jobs: Sequence[Job], feed: Feed
    ) -> tuple[Sequence[Failure], Execution | None]:
        """Call the handler and record. What failed, and what succeeded and is not audited yet."""
        self.notice(BatchStarted(consumer=self.consumer, jobs=len(jobs), first_id=jobs[0].id))
        if self.handler.executes:
            return await self._execute_in_unit(jobs, feed)

        call, failures = await self._handle(jobs, None)
        if failures:
            await self._record(failures, feed)

        return failures, self._unwritten(jobs, call, failures)

    async def _execute_in_unit(
        self, jobs: Sequence[Job], feed: Feed
    ) -> tuple[Sequence[Failure], Execution | None]:
        async with self.units.open(epoch=feed.epoch) as unit:
            call, failures = await self._handle(jobs, unit)
            executed = self._unwritten(jobs, call, ())
            failures, recorded = await self.settlement.commit(
                unit, failures, executed=executed, epoch=feed.epoch
            )
            if recorded:
                tell_failures(failures, consumer=self.consumer, notice=self.notice)
                written = {**unit.jobs, **unit.once}
                return failures, self._unwritten(jobs, call, failures, written)

        failures = self._audited(failures, call)
        await self.settlement.finish_once(unit, failures, executed=executed, epoch=feed.epoch)
        if failures:
            await self._record(failures, feed)

        return failures, self._unwritten(jobs, call, failures, unit.once)

    def _unwritten(
        self,
        jobs: Sequence[Job],
        call: Call,
        failures: Sequence[Failure],
        written: Container[int] = (),
    ) -> Execution | None:
        """What succeeded, without what was written already; None for nothing."""
        if self.auditing is None:
            return None

        rest = jobs
        if failures or written:
            failed = {failure.job.id for failure in failures}
            rest = [job for job in jobs if job.id not in failed and job.id not in written]

        return Execution(rest, call, len(jobs)) if rest else None

    def _audited(self, failures: Sequence[Failure], call: Call) -> Sequence[Failure]:
        """The failures, together with their call if that is to be kept."""
        if not self.audits_failures:
            return failures

        return [replace(failure, call=call) for failure in failures]

    async def _handle(
        self, jobs: Sequence[Job], unit: Unit | None
    ) -> tuple[Call, Sequence[Failure]]:
        call, failures = await call_handler(
            self.handler, jobs, unit, policy=self.policy, redact=self.redact
        )
        self.notice(
            BatchHandled(
                consumer=self.consumer,
                jobs=len(jobs),
                failed=sum(not isinstance(failure.fate, Snooze) for failure in failures),
                seconds=call.seconds,
            )
        )
        return call, self._audited(failures, call)

    async def _record(self, failures: Sequence[Failure], feed: Feed) -> None:
        await durably(
            lambda: self.ledger.record(failures, epoch=feed.epoch),
            doing="record outcomes",
            consumer=self.consumer,
            notice=self.notice,
        )
        tell_failures(failures, consumer=self.consumer, notice=self.notice)


def _no_call() -> Call:
    """Stands for the call of what was not called, or not by this process."""
    return Call(time.perf_counter(), 0.0)
