"""The batcher loses nothing, doubles nothing, and keeps the order and the limits."""

from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pgcdc_outbox.core.batching import Batch, Batcher
from pgcdc_outbox.core.progress import Ticket
from pgcdc_outbox.job import Job

OVERHEAD = 512
MAX_AGE = 10.0


class Queued(NamedTuple):
    """A job in the queue, as the test remembers it."""

    job: Job
    ticket: Ticket
    at: float
    single: bool
    why: str = ""

    @property
    def size(self) -> int:
        return len(self.job.payload) + OVERHEAD


# Few different ones, so that what just fits is as frequent as what just does not.
sizes = st.sampled_from([0, 1, OVERHEAD - 1, OVERHEAD, 3 * OVERHEAD])


class BatcherMachine(RuleBasedStateMachine):
    """The specification is `groups`: what should be in which batch."""

    @initialize(
        max_jobs=st.integers(1, 5),
        max_bytes=st.sampled_from([1, *(n * OVERHEAD for n in (1, 2, 3, 4, 6, 100))]),
    )
    def start(self, max_jobs: int, max_bytes: int) -> None:
        self.max_jobs = max_jobs
        self.max_bytes = max_bytes
        self.batcher = Batcher(
            max_jobs=max_jobs,
            max_bytes=max_bytes,
            max_age=MAX_AGE,
            alone=lambda job: job.key == "alone",
        )
        self.queue: list[Queued] = []
        self.now = 100.0
        self.ids = 0

    @rule(each=st.lists(st.tuples(sizes, st.integers(1, 2)), min_size=1, max_size=4))
    def add(self, each: list[tuple[int, int]]) -> None:
        for size, attempt in each:
            job = self.job(size, attempt=attempt)
            self.batcher.add(job, self.remember(job), self.now)

    @rule(size=sizes)
    def add_one_that_goes_alone(self, size: int) -> None:
        job = self.job(size, attempt=2, key="alone")
        self.batcher.add(job, self.remember(job, single=True), self.now)

    @rule(size=sizes)
    def add_dead(self, size: int) -> None:
        job = self.job(size)
        self.batcher.add_dead(job, "no payload", self.remember(job, why="no payload"), self.now)

    @rule(seconds=st.sampled_from([MAX_AGE / 2, MAX_AGE]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def take(self) -> None:
        batch = self.batcher.take()
        if not self.queue:
            assert batch is None
            return

        assert batch is not None
        expected = self.groups()[0]
        del self.queue[: len(expected)]
        assert batch.jobs == [each.job for each in expected]
        assert batch.tickets == [each.ticket for each in expected]
        assert batch.dead == expected[0].why
        self.within_the_limits(batch)

    @rule()
    def clear(self) -> None:
        assert self.batcher.clear() == len(self.queue)
        self.queue.clear()
        assert self.batcher.take() is None

    def teardown(self) -> None:
        while self.queue:
            self.take()

        self.take()
        assert (self.batcher.jobs, self.batcher.size) == (0, 0)

    @invariant()
    def counts_what_it_holds(self) -> None:
        assert self.batcher.jobs == len(self.queue)
        assert self.batcher.size == sum(each.size for each in self.queue)

    @invariant()
    def gives_a_complete_batch_at_once_and_any_other_when_idle_or_old(self) -> None:
        groups = self.groups()
        assert self.batcher.ready(self.now, idle=True) == bool(groups)
        assert self.batcher.ready(self.now, idle=False) == (
            bool(groups)
            and (
                len(groups) > 1
                or self.is_complete(groups[0])
                or self.now - groups[0][0].at >= MAX_AGE
            )
        )

    def groups(self) -> list[list[Queued]]:
        """The queue cut into batches, from the front."""
        groups: list[list[Queued]] = []
        for each in self.queue:
            if not groups or self.is_complete(groups[-1]) or not self.fits(each, groups[-1]):
                groups.append([])

            groups[-1].append(each)

        return groups

    def fits(self, each: Queued, group: list[Queued]) -> bool:
        return not each.single and sum(one.size for one in [*group, each]) <= self.max_bytes

    def is_complete(self, group: list[Queued]) -> bool:
        return (
            group[0].single
            or len(group) == self.max_jobs
            or sum(each.size for each in group) >= self.max_bytes
        )

    def within_the_limits(self, batch: Batch) -> None:
        assert 1 <= len(batch.jobs) <= self.max_jobs
        assert batch.size <= self.max_bytes or len(batch.jobs) == 1

    def job(self, size: int, *, attempt: int = 1, key: str | None = None) -> Job:
        self.ids += 1
        return Job(self.ids, "topic", bytes(size), key=key, attempt=attempt)

    def remember(self, job: Job, *, single: bool = False, why: str = "") -> Ticket:
        ticket = Ticket()
        self.queue.append(Queued(job, ticket, self.now, single or bool(why), why))
        return ticket


TestBatcher = BatcherMachine.TestCase
TestBatcher.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)


def test_an_empty_batcher_has_nothing_to_give() -> None:
    batcher = Batcher(max_jobs=1, max_bytes=1, max_age=0.0)

    assert batcher.take() is None
    assert not batcher.ready(1e9, idle=True)


def test_without_an_age_nothing_waits() -> None:
    batcher = Batcher(max_jobs=10, max_bytes=10_000, max_age=0.0)
    batcher.add(Job(1, "topic", b""), Ticket(), 5.0)

    assert batcher.ready(5.0, idle=False)


def test_the_age_of_a_batch_is_that_of_its_first_job() -> None:
    batcher = Batcher(max_jobs=10, max_bytes=10_000, max_age=10.0)
    batcher.add(Job(1, "topic", b""), Ticket(), 100.0)
    batcher.add(Job(2, "topic", b""), Ticket(), 109.0)

    assert not batcher.ready(109.9, idle=False)
    assert batcher.ready(110.0, idle=False)


def test_a_large_job_fills_a_batch_by_itself() -> None:
    batcher = Batcher(max_jobs=10, max_bytes=1000, max_age=60.0)
    batcher.add(Job(1, "topic", bytes(5000)), Ticket(), 0.0)

    assert batcher.ready(0.0, idle=False), "it waits for company that it cannot have"


@given(
    st.lists(st.lists(st.integers(0, 3000), min_size=1, max_size=40), max_size=12),
    st.integers(1, 30),
    st.integers(1, 40_000),
)
def test_jobs_queued_by_the_run_are_cut_as_if_queued_one_by_one(
    runs: list[list[int]], max_jobs: int, max_bytes: int
) -> None:
    """None lost, none doubled, order kept, limits held, and every job has its own ticket."""
    batcher = Batcher(max_jobs=max_jobs, max_bytes=max_bytes, max_age=1.0)
    queued: list[tuple[int, Ticket]] = []
    for sizes in runs:
        ticket = Ticket()
        jobs = [Job(len(queued) + n, "t", bytes(size)) for n, size in enumerate(sizes)]
        queued += [(job.id, ticket) for job in jobs]
        batcher.add_many(jobs, ticket, sum(sizes) + 100 * len(jobs), 0.0)

    assert batcher.jobs == len(queued)
    taken: list[tuple[int, Ticket]] = []
    while (batch := batcher.take()) is not None:
        assert 1 <= len(batch.jobs) <= max_jobs
        assert len(batch.jobs) == 1 or sum(len(job.payload) for job in batch.jobs) <= max_bytes
        taken += [(job.id, ticket) for job, ticket in zip(batch.jobs, batch.tickets, strict=True)]

    assert taken == queued
    assert (batcher.jobs, batcher.size) == (0, 0)
