"""Jobs on their way from the reader to a worker, cut into batches."""

from collections import deque
from collections.abc import Callable, Sequence

from pgcdc_outbox.core.progress import Ticket
from pgcdc_outbox.job import Job

# What a job costs beside its payload, so that a flood of tiny jobs is bounded too.
_OVERHEAD = 512


class Batch:
    """Jobs for one call of the handler, each with the ticket it settles."""

    __slots__ = ("dead", "expires", "jobs", "size", "tickets")

    def __init__(self, dead: str = "") -> None:
        self.dead = dead
        """Why its only job cannot be handled at all; empty for all but those."""
        self.expires = False
        """Whether the time of one of its jobs may be over."""
        self.jobs: list[Job] = []
        self.tickets: list[Ticket] = []
        self.size = 0

    def part(self, chosen: Callable[[Job], bool]) -> "Batch":
        """Some of its jobs, with their tickets, as a batch of their own."""
        part = Batch(self.dead)
        part.expires = self.expires
        for job, ticket in zip(self.jobs, self.tickets, strict=True):
            if chosen(job):
                part.jobs.append(job)
                part.tickets.append(ticket)

        return part


class Batcher:
    """Cuts jobs into batches by count, by bytes, and by age; a few go alone.

    A batch that is full is handed out at once. One that is not waits until
    the source is idle or its first job is ``max_age`` seconds old: a worker
    that is free never waits longer than that.
    """

    def __init__(
        self,
        *,
        max_jobs: int,
        max_bytes: int,
        max_age: float,
        alone: Callable[[Job], bool] = lambda job: False,
    ) -> None:
        self._max_jobs = max_jobs
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._alone = alone
        self._closed: deque[Batch] = deque()
        self._open = Batch()
        self._opened_at = 0.0
        self._closed_jobs = 0
        self._closed_size = 0

    @property
    def jobs(self) -> int:
        """How many jobs are held."""
        return self._closed_jobs + len(self._open.jobs)

    @property
    def size(self) -> int:
        """How many bytes they take, about."""
        return self._closed_size + self._open.size

    @property
    def room(self) -> int:
        """How many jobs fit into the batch that the next one goes into."""
        return self._max_jobs - len(self._open.jobs)

    def add(self, job: Job, ticket: Ticket, now: float) -> None:
        """Queue a job. ``now`` is seconds of a monotonic clock; a coarse one will do."""
        if job.attempt > 1 and self._alone(job):
            self._close()
            self._put(job, ticket, now)
            self._close()
            return

        if self._open.jobs and self._open.size + job_size(job) > self._max_bytes:
            self._close()

        self._put(job, ticket, now)
        if len(self._open.jobs) >= self._max_jobs or self._open.size >= self._max_bytes:
            self._close()

    def add_many(self, jobs: Sequence[Job], ticket: Ticket, size: int, now: float) -> None:
        """Queue jobs of one transaction, never tried and without expiry, ``size`` bytes in all.

        The same as `add` for each, but cheaper: most runs fit into a batch as
        they are, and the others are cut by count. Only where bytes may be the
        limit is each job looked at.
        """
        if self._open.size + size + len(jobs) * _OVERHEAD > self._max_bytes:
            for job in jobs:
                self.add(job, ticket, now)

            return

        each = size // len(jobs) + _OVERHEAD
        at = 0
        while at < len(jobs):
            batch = self._open
            if not batch.jobs:
                self._opened_at = now

            part = jobs[at : at + self._max_jobs - len(batch.jobs)]
            batch.jobs += part
            batch.tickets += [ticket] * len(part)
            batch.size += each * len(part)
            at += len(part)
            if len(batch.jobs) >= self._max_jobs:
                self._close()

    def add_dead(self, job: Job, why: str, ticket: Ticket, now: float) -> None:
        """Queue a job that no handler shall see: its row could not be decoded."""
        self._close()
        self._open = Batch(dead=why)
        self._put(job, ticket, now)
        self._close()

    def limit(self, max_jobs: int) -> None:
        """Cut batches of so many jobs from here on, and those that are held anew."""
        self._close()
        self._max_jobs = max_jobs
        held, opened_at = self._closed, self._opened_at
        self._closed = deque()
        self._closed_jobs = self._closed_size = 0
        for batch in held:
            for job, ticket in zip(batch.jobs, batch.tickets, strict=True):
                if batch.dead:
                    self.add_dead(job, batch.dead, ticket, opened_at)
                else:
                    self.add(job, ticket, opened_at)

    def ready(self, now: float, *, idle: bool) -> bool:
        """Whether a worker should be given something now."""
        if self._closed:
            return True

        return bool(self._open.jobs) and (idle or now - self._opened_at >= self._max_age)

    def take(self) -> Batch | None:
        """The oldest batch, complete or not; None if there is nothing at all."""
        if not self._closed:
            self._close()

        if not self._closed:
            return None

        batch = self._closed.popleft()
        self._closed_jobs -= len(batch.jobs)
        self._closed_size -= batch.size
        return batch

    def release(self, batch: Batch) -> None:
        """A batch is done. Here nothing waits for that; see `Lanes`."""

    def clear(self) -> int:
        """Forget what was not handed out: the log still holds it. Returns how many jobs."""
        forgotten = self.jobs
        self._closed.clear()
        self._open = Batch()
        self._closed_jobs = self._closed_size = 0
        return forgotten

    def _put(self, job: Job, ticket: Ticket, now: float) -> None:
        if not self._open.jobs:
            self._opened_at = now

        self._open.jobs.append(job)
        self._open.tickets.append(ticket)
        self._open.size += job_size(job)
        if job.expires_us is not None:
            self._open.expires = True

    def _close(self) -> None:
        if self._open.jobs:
            self._closed.append(self._open)
            self._closed_jobs += len(self._open.jobs)
            self._closed_size += self._open.size
            self._open = Batch()


def job_size(job: Job) -> int:
    """How many bytes a job takes in memory, about."""
    return len(job.payload) + _OVERHEAD
