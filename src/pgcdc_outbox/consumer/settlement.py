"""What becomes of a call that has a unit: its outcome, made durable with what it did."""

import random
from collections.abc import Iterable, Sequence

from msgspec import Struct

from pgcdc_outbox.consumer.durably import durably
from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.consumer.ports import Ledger, Unit
from pgcdc_outbox.core.call import Execution
from pgcdc_outbox.core.once import judge_once
from pgcdc_outbox.core.retry import Policy
from pgcdc_outbox.core.verdict import Failure, Redact, judge_raised
from pgcdc_outbox.errors import Fenced, NotCommitted
from pgcdc_outbox.job import Job


class Settlement(Struct, frozen=True, kw_only=True):
    """Commits the transaction of a unit with the outcome of its call, or records it alone."""

    consumer: str
    policy: Policy
    ledger: Ledger
    notice: Notice
    redact: Redact | None = None

    async def commit(
        self,
        unit: Unit,
        failures: Sequence[Failure],
        *,
        executed: Execution | None,
        epoch: int,
    ) -> tuple[Sequence[Failure], bool]:
        """Commit what the call did, if it began a transaction.

        Returns the failures of the call, of which there are more if nothing was
        committed, and whether they are recorded. ``executed`` is the call, if what
        succeeded is to be audited. Raises `Fenced`.
        """
        if not unit.jobs:
            return failures, False

        done = _done({**unit.jobs, **unit.once}.values(), failures)

        async def write(ledger: Ledger) -> None:
            # First: it says how long the lock of the fence may be held.
            if await ledger.record_done(done, epoch=epoch) < len(done):
                # Never seen. It would be done twice: take hold anew, and look.
                raise Fenced(f"consumer {self.consumer}: a job of this call is settled already")

            if failures:
                await ledger.record(failures, epoch=epoch)

            if executed is not None and done:
                await ledger.record_attempts(executed.only(done))

        try:
            await unit.commit(write)
        except NotCommitted as error:
            return self._undone(unit, failures, error.cause), False

        return failures, True

    async def finish_once(
        self,
        unit: Unit,
        failures: Sequence[Failure],
        *,
        executed: Execution | None,
        epoch: int,
    ) -> None:
        """Record that jobs which ran once have succeeded, outside of a transaction."""
        done = _done(unit.once.values(), failures)
        if done:
            await durably(
                lambda: self._record_done(done, executed, epoch),
                doing="record what is done",
                consumer=self.consumer,
                notice=self.notice,
            )

    async def _record_done(
        self, done: Sequence[Job], executed: Execution | None, epoch: int
    ) -> None:
        # First the audit: what is known to be done is never without it.
        if executed is not None:
            await self.ledger.record_attempts(executed.only(done))

        await self.ledger.record_done(done, epoch=epoch)

    def _undone(
        self, unit: Unit, failures: Sequence[Failure], cause: Exception
    ) -> Sequence[Failure]:
        """The failures of a call whose transaction was rolled back: all of its jobs, too."""
        failed = {failure.job.id for failure in failures}
        rolled_back = judge_raised(
            list(unit.jobs.values()),
            cause,
            self.policy,
            jitter=random.uniform,
            redact=self.redact,
        )
        errors = dict.fromkeys(unit.jobs, cause)
        return [
            *failures,
            *judge_once([f for f in rolled_back if f.job.id not in failed], unit.once, errors),
        ]


def _done(jobs: Iterable[Job], failures: Sequence[Failure]) -> Sequence[Job]:
    failed = {failure.job.id for failure in failures}
    return [job for job in jobs if job.id not in failed]
