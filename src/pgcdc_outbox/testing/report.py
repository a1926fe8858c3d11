"""What draining did: each execution, and what became of it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from msgspec import Struct

from pgcdc_outbox.job import Job

Outcome = Literal["done", "retry", "snooze", "dead", "interrupted"]


class FailedJob(Struct, frozen=True, kw_only=True):
    """A job that waits for its next attempt, or one that is dead."""

    id: int
    attempt: int
    """The attempt that failed."""
    topic: str
    key: str | None
    due_at: datetime | None
    """When it is tried again; None if it is dead."""
    reason: str | None
    """Why it is dead; None if it is not."""
    error: str | None
    """Class of the last error."""
    text: str | None
    """Text of the last error."""


class Execution(Struct, frozen=True):
    """One job, given to the handler once."""

    job: Job
    outcome: Outcome
    """``interrupted``: it was executed, and that was not recorded, as if the process had died."""
    error: BaseException | None = None
    """What the handler raised, or returned for this job."""


class Report(Struct, frozen=True, kw_only=True):
    """What one call of ``drain`` did."""

    executions: Sequence[Execution] = ()
    """In the order in which the handler was done with them."""
    dead: Sequence[FailedJob] = ()
    """Jobs that became dead letters, executed or not (undecodable, expired)."""

    @property
    def jobs(self) -> list[Job]:
        """The jobs as they were executed; one that was executed twice is in it twice."""
        return [execution.job for execution in self.executions]

    @property
    def ids(self) -> list[int]:
        """The ids of these jobs."""
        return [execution.job.id for execution in self.executions]

    @property
    def done(self) -> list[Job]:
        """The jobs that were finished."""
        return self._of("done")

    @property
    def retried(self) -> list[Job]:
        """The executions that failed and were, or will be, followed by another."""
        return self._of("retry")

    @property
    def snoozed(self) -> list[Job]:
        """The executions after which the job was put off."""
        return self._of("snooze")

    @property
    def interrupted(self) -> list[Job]:
        """The executions whose outcome was not recorded."""
        return self._of("interrupted")

    def assert_done(self) -> None:
        """Fail unless every job is finished in the end; what the handler raised is the cause."""
        __tracebackhide__ = True
        last = {execution.job.id: execution for execution in self.executions}
        failed = [execution for execution in last.values() if execution.outcome != "done"]
        unexecuted = [dead for dead in self.dead if dead.id not in last]
        lines = [
            f"  {one.job!r}: {one.outcome}, {type(one.error).__name__}: {one.error}"
            for one in failed
        ]
        lines += [
            f"  job {dead.id}, topic {dead.topic!r}: dead, {dead.reason} ({dead.text})"
            for dead in unexecuted
        ]
        if lines:
            cause = failed[0].error if failed else None
            raise AssertionError("\n".join(["not every job is done:", *lines])) from cause

    def _of(self, outcome: Outcome) -> list[Job]:
        return [each.job for each in self.executions if each.outcome == outcome]
