"""Lanes keep the order of each key, hand out nothing twice, and let no key wait for another."""

from collections import Counter
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pgcdc_outbox.core.batching import Batch
from pgcdc_outbox.core.lanes import Lanes
from pgcdc_outbox.core.progress import Ticket
from pgcdc_outbox.job import Job

OVERHEAD = 512
MAX_AGE = 10.0
SHARING = {"a", "b", "c"}

# Few keys, so that they meet; two of them may not share a batch.
keys = st.sampled_from([None, "a", "b", "c", "single", "other"])
sizes = st.sampled_from([0, 1, OVERHEAD])


class LanesMachine(RuleBasedStateMachine):
    """The model: a list of jobs as they came, and which keys run."""

    @initialize(
        max_jobs=st.integers(1, 5),
        max_bytes=st.sampled_from([1, *(n * OVERHEAD for n in (1, 2, 4, 100))]),
    )
    def start(self, max_jobs: int, max_bytes: int) -> None:
        self.max_jobs = max_jobs
        self.max_bytes = max_bytes
        self.lanes = Lanes(
            max_jobs=max_jobs,
            max_bytes=max_bytes,
            max_age=MAX_AGE,
            alone=lambda job: job.topic == "alone",
            shares=SHARING.__contains__,
        )
        self.waiting: list[tuple[Job, Ticket, str]] = []
        self.running: list[Batch] = []
        self.ids = 0

    @rule(each=st.lists(st.tuples(keys, sizes), min_size=1, max_size=6), many=st.booleans())
    def add(self, each: list[tuple[str | None, int]], many: bool) -> None:
        ticket = Ticket()
        jobs = [self.job(key, size) for key, size in each]
        self.waiting += [(job, ticket, "") for job in jobs]
        if many:
            self.lanes.add_many(jobs, ticket, sum(size for _, size in each), 0.0)
        else:
            for job in jobs:
                self.lanes.add(job, ticket, 0.0)

    @rule(key=keys)
    def add_one_that_goes_alone(self, key: str | None) -> None:
        job = self.job(key, 1, topic="alone", attempt=2)
        ticket = Ticket()
        self.waiting.append((job, ticket, ""))
        self.lanes.add(job, ticket, 0.0)

    @rule(key=keys)
    def add_dead(self, key: str | None) -> None:
        job = self.job(key, 1)
        ticket = Ticket()
        self.waiting.append((job, ticket, "no payload"))
        self.lanes.add_dead(job, "no payload", ticket, 0.0)

    @rule()
    def take(self) -> None:
        free = self.free
        batch = self.lanes.take()
        if not free:
            assert batch is None, "a key that runs was handed out again"
            return

        assert batch is not None, "a job waits for nothing"
        assert free[0][0] in batch.jobs, "the oldest that may run was passed over"
        self.is_cut_well(batch)
        for job, ticket in zip(batch.jobs, batch.tickets, strict=True):
            first = next(each for each in self.waiting if each[0].key == job.key)
            if job.key is not None:
                assert first[0] is job, "an older one of its key waits"

            assert (job, ticket, batch.dead) in self.waiting
            self.waiting.remove((job, ticket, batch.dead))

        self.running.append(batch)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        batch = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.lanes.release(batch)

    @rule()
    def clear(self) -> None:
        assert self.lanes.clear() == len(self.waiting)
        self.waiting.clear()
        # The hold has ended: what runs is released to nobody.
        for batch in self.running:
            self.lanes.release(batch)

        self.running.clear()

    def teardown(self) -> None:
        while self.waiting:
            self.take()
            if self.running:
                self.lanes.release(self.running.pop(0))

        for batch in self.running:
            self.lanes.release(batch)

        assert (self.lanes.jobs, self.lanes.size, self.lanes._lanes) == (0, 0, {})

    @invariant()
    def counts_what_it_holds(self) -> None:
        assert self.lanes.size == sum(len(job.payload) + OVERHEAD for job, _, _ in self.waiting)
        assert len(self.free) <= self.lanes.jobs <= len(self.waiting)

    @invariant()
    def is_ready_when_something_may_run(self) -> None:
        assert self.lanes.ready(0.0, idle=True) == bool(self.free)
        assert self.lanes.ready(MAX_AGE, idle=False) == bool(self.free)
        # Having looked, it knows which jobs wait for others.
        if not self.free:
            assert self.lanes.jobs == 0

    @property
    def free(self) -> list[tuple[Job, Ticket, str]]:
        """What may run now, the oldest first."""
        busy = {job.key for batch in self.running for job in batch.jobs} - {None}
        return [each for each in self.waiting if each[0].key not in busy]

    def is_cut_well(self, batch: Batch) -> None:
        jobs = batch.jobs
        assert 1 <= len(jobs) <= self.max_jobs
        assert batch.size == sum(len(job.payload) + OVERHEAD for job in jobs)
        assert batch.size <= self.max_bytes or len(jobs) == 1
        assert [job.id for job in jobs] == sorted(job.id for job in jobs)
        assert len(jobs) == 1 or all(job.topic != "alone" for job in jobs)
        assert len(jobs) == 1 or not batch.dead
        counts = Counter(job.key for job in jobs)
        assert all(n == 1 for key, n in counts.items() if key not in SHARING | {None})

    def job(self, key: str | None, size: int, *, topic: str = "orders", attempt: int = 1) -> Job:
        self.ids += 1
        return Job(self.ids, topic, bytes(size), key=key, attempt=attempt)


TestLanes = LanesMachine.TestCase
TestLanes.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def lanes(**options: object) -> Lanes:
    sizes = {"max_jobs": 1, "max_bytes": 1 << 20, "max_age": 0.0}
    return Lanes(**{**sizes, **options})  # type: ignore[arg-type]


def put(subject: Lanes, *jobs: tuple[int, str | None]) -> None:
    for id_, key in jobs:
        subject.add(Job(id_, "orders", b"", key=key), Ticket(), 0.0)


def ids(batch: Batch | None) -> list[int]:
    assert batch is not None
    return [job.id for job in batch.jobs]


def test_another_key_passes_one_that_is_slow() -> None:
    subject = lanes()
    put(subject, (1, "slow"), (2, "slow"), (3, "quick"), (4, None))
    first = subject.take()

    assert ids(first) == [1]
    assert ids(subject.take()) == [3]
    assert ids(subject.take()) == [4]
    assert subject.take() is None

    assert first is not None
    subject.release(first)
    assert ids(subject.take()) == [2]


def test_what_waits_for_its_key_does_not_count_as_held() -> None:
    """Or a slow key would stop the reader, and every other key with it."""
    subject = lanes()
    put(subject, *((id_, "slow") for id_ in range(1, 1001)))
    running = subject.take()
    assert subject.take() is None

    assert subject.jobs == 0
    assert subject.size == 999 * OVERHEAD
    assert running is not None
    subject.release(running)
    assert subject.jobs == 999


def test_a_batch_may_hold_several_of_a_key_in_order() -> None:
    subject = lanes(max_jobs=10)
    put(subject, (1, "a"), (2, "b"), (3, "a"), (4, None))

    assert ids(subject.take()) == [1, 2, 3, 4]


def test_unless_they_may_not_share_one() -> None:
    subject = lanes(max_jobs=10, shares=lambda key: False)
    put(subject, (1, "a"), (2, "b"), (3, "a"), (4, None))
    first = subject.take()

    assert ids(first) == [1, 2, 4]
    assert subject.take() is None
    assert first is not None
    subject.release(first)
    assert ids(subject.take()) == [3]


def test_a_backlog_of_one_key_costs_no_more_for_each_job_than_a_short_one() -> None:
    """Counted, not timed: how often a turn is looked at."""

    def looks(jobs: int) -> int:
        counted = count()
        subject = lanes(shares=lambda key: next(counted) < 0)
        put(subject, *((id_, "slow") for id_ in range(jobs)))
        put(subject, *((jobs + id_, f"k{id_}") for id_ in range(jobs)))
        seen = 0
        is_open = subject._is_open

        def counting(*arguments: object) -> bool:
            nonlocal seen
            seen += 1
            return is_open(*arguments)  # type: ignore[arg-type]

        subject._is_open = counting  # type: ignore[method-assign]
        while (batch := subject.take()) is not None:
            assert subject.ready(0.0, idle=True) or not subject.jobs
            subject.release(batch)

        return seen

    assert looks(1000) < 11 * looks(100)


@given(st.lists(keys, min_size=1, max_size=60), st.integers(1, 4), st.randoms())
@settings(deadline=None)
def test_whatever_ends_first_every_job_gets_its_turn(
    chosen: list[str | None], workers: int, chance: object
) -> None:
    """Workers that take what they can; each key is seen in order, and nothing is left."""
    subject = lanes(max_jobs=3)
    put(subject, *enumerate(chosen))
    running: list[Batch] = []
    seen: dict[str | None, list[int]] = {}
    while True:
        if len(running) < workers and (batch := subject.take()) is not None:
            for job in batch.jobs:
                seen.setdefault(job.key, []).append(job.id)

            running.append(batch)
        elif running:
            subject.release(running.pop(chance.randrange(len(running))))  # type: ignore[attr-defined]
        else:
            break

    assert sum(map(len, seen.values())) == len(chosen)
    assert all(each == sorted(each) for key, each in seen.items() if key is not None)
