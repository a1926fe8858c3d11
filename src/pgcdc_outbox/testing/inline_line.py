"""The jobs of an inline client, and the course that they take through a handler.

The course is a generator that knows no handler: it gives a batch out, and is sent what
became of it. So it is the same for a handler that is awaited and for one that is not.
"""

from collections.abc import Awaitable, Callable, Generator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from msgspec import Struct

from pgcdc_outbox.core.retry import Policy
from pgcdc_outbox.core.verdict import Failure, judge, judge_raised, read
from pgcdc_outbox.job import JSON_TYPE, Failing, History, Job
from pgcdc_outbox.outcome import Dead, Done, Snooze
from pgcdc_outbox.postgres.producer.enqueue import Row
from pgcdc_outbox.testing.enqueued import EnqueuedJob

Course = Generator[Sequence[Job], Any, None]


class DeadJob(Struct, frozen=True):
    """A job that was given up."""

    job: Job
    """As it was executed last."""
    reason: str
    error: str
    """Class of the last error."""
    text: str


class Line:
    """Jobs, in the order in which they were enqueued."""

    def __init__(self, policy: Policy | None) -> None:
        self.jobs: list[EnqueuedJob] = []
        self.waiting: list[EnqueuedJob] = []
        self.dead: list[DeadJob] = []
        self._uncommitted: set[int] = set()
        self._policy = policy
        self._last_id = 0

    def add(
        self, rows: Sequence[Row], *, waits: bool
    ) -> tuple[Sequence[EnqueuedJob], Sequence[EnqueuedJob]]:
        """The jobs of these rows, and those of them that are to be handled now."""
        jobs = [self._job(row) for row in rows]
        self.jobs += jobs
        if waits:
            self._uncommitted.update(job.id for job in jobs)

        ready = [job for job in jobs if job.run_at is None and not waits]
        self.waiting += [job for job in jobs if job not in ready]
        return jobs, ready

    def take(self, *, later: bool) -> list[EnqueuedJob]:
        """What is to be handled once everything is committed."""
        self._uncommitted.clear()
        taken = [job for job in self.waiting if later or job.run_at is None]
        self.waiting = [job for job in self.waiting if job not in taken]
        return sorted(taken, key=lambda job: (job.run_at is not None, job.run_at, job.id))

    def discard(self) -> None:
        """Forget what is not committed."""
        gone = self._uncommitted
        self.jobs = [job for job in self.jobs if job.id not in gone]
        self.waiting = [job for job in self.waiting if job.id not in gone]
        self._uncommitted = set()

    def course(self, jobs: Sequence[Job]) -> Course:
        """Give out batches until every job is done or dead; raise what is not to be retried."""
        batches = [jobs]
        while batches:
            batch = batches.pop(0)
            failures: list[Failure] = []
            try:
                errors = read((yield batch), batch)
                if errors and self._policy is None:
                    raise next(iter(errors.values()))

                if self._policy is not None:
                    failures = judge(batch, errors, self._policy, jitter=_least)
            except Exception as error:
                if isinstance(error, Done) and len(batch) == 1:
                    continue

                if self._policy is None:
                    raise

                failures = judge_raised(batch, error, self._policy, jitter=_least)

            # As a retry does, each comes back alone.
            batches += [[_again(each)] for each in failures if not isinstance(each.fate, Dead)]
            self.dead += [
                DeadJob(each.job, each.fate.reason, each.error, each.text)
                for each in failures
                if isinstance(each.fate, Dead)
            ]

    def _job(self, row: Row) -> EnqueuedJob:
        self._last_id += 1
        now = datetime.now(UTC)
        later = None if row.delay is None else now + timedelta(seconds=row.delay)
        return EnqueuedJob(
            id=self._last_id,
            topic=row.topic,
            payload=row.payload,
            key=row.key,
            headers={} if row.headers is None else msgspec.json.decode(row.headers),
            content_type=row.content_type or JSON_TYPE,
            created_us=int(now.timestamp() * 1_000_000),
            run_at=row.run_at or later,
        )


def drive(course: Course, call: Callable[[Sequence[Job]], Any]) -> None:
    """Take a course with a handler."""
    batch = next(course, None)
    while batch is not None:
        try:
            result = call(batch)
        except Exception as error:
            batch = _thrown(course, error)
        else:
            batch = _sent(course, result)


async def drive_async(course: Course, call: Callable[[Sequence[Job]], Awaitable[Any]]) -> None:
    """Take a course with a handler that is awaited."""
    batch = next(course, None)
    while batch is not None:
        try:
            result = await call(batch)
        except Exception as error:
            batch = _thrown(course, error)
        else:
            batch = _sent(course, result)


def _sent(course: Course, result: Any) -> Sequence[Job] | None:
    try:
        return course.send(result)
    except StopIteration:
        return None


def _thrown(course: Course, error: Exception) -> Sequence[Job] | None:
    try:
        return course.throw(error)
    except StopIteration:
        return None


def _again(failure: Failure) -> Job:
    """The job as its next attempt gets it. One that was put off has not failed."""
    job = failure.job
    put_off = isinstance(failure.fate, Snooze)
    failing = Failing(
        attempt=job.attempt,
        at=datetime.now(UTC).isoformat(),
        error=failure.error,
        text=failure.text,
        jobs=failure.jobs,
    )
    history = History(
        created_us=job.created_us,
        prior_attempts=job.prior_attempts + put_off,
        errors=job.errors if put_off else (*job.errors, failing),
    )
    return msgspec.structs.replace(job, attempt=job.attempt + 1, history=history)


def _least(low: float, high: float) -> float:
    return low
