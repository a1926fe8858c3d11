"""Jobs on their way to the workers, such that those of one key never meet.

Takes the place of the `Batcher` when order is asked for. No key belongs to a
worker: whoever is free takes what is next, and passes over keys of which a job
runs right now.
"""

from collections import deque
from collections.abc import Callable, Sequence
from heapq import heappop, heappush, heapreplace
from operator import attrgetter
from typing import Final, Literal

from msgspec import Struct

from pgcdc_outbox.core.batching import Batch, job_size
from pgcdc_outbox.core.progress import Ticket
from pgcdc_outbox.job import Job

Ordering = Literal["none", "key", "strict_key"]
"""What is in order: nothing; the starts of one key; these, also across retries."""

_NUMBER: Final = attrgetter("number")


# gc=False: there may be many, and none refers back to itself.
class Waiting(Struct, gc=False):
    """A job that nobody has taken yet."""

    number: int
    """Counts jobs as they come."""
    job: Job
    ticket: Ticket
    size: int
    at: float
    alone: bool = False
    dead: str = ""


class Lane:
    """The jobs of one key: which wait, and whether one of them runs."""

    __slots__ = ("busy", "freed", "passed", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Waiting] = deque()
        self.busy: Batch | None = None
        """The batch that has jobs of this key, until it is done."""
        self.freed = False
        """Whether it has its place among those that are free again."""
        self.passed = 0
        """How many of those that wait had their turn while the lane was busy."""


class Lanes:
    """Cuts jobs into batches as the `Batcher` does, and keeps the order of each key.

    Invariants, each the subject of a property test:

    - of one key, jobs are handed out in the order in which they came, and none
      while a batch with another of them is not released;
    - a job waits for none but those of its own key;
    - each costs the same, however many wait: the oldest that may run is found
      without a look at those that may not.

    Every job has a turn, in the order in which jobs came; that of a job whose lane
    is busy passes. When the lane is free again, those have their turn before all
    others: they are older.

    ``shares`` says of a key whether one batch may have several of its jobs.
    """

    def __init__(
        self,
        *,
        max_jobs: int,
        max_bytes: int,
        max_age: float,
        alone: Callable[[Job], bool] = lambda job: False,
        shares: Callable[[str], bool] = lambda key: True,
    ) -> None:
        self._max_jobs = max_jobs
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._alone = alone
        self._shares = shares
        self._lanes: dict[str, Lane] = {}
        self._turns: deque[Lane | Waiting] = deque()
        self._freed: list[tuple[int, Lane]] = []
        """Lanes that are free again, and the number of their first job: a heap."""
        self._number = 0
        self._jobs = 0
        self._blocked = 0
        self.size = 0
        """How many bytes they take, about."""

    @property
    def jobs(self) -> int:
        """How many jobs are held, without those that wait for another of their key.

        A key that is slow must not keep the reader from jobs of other keys; what
        waits for it is bounded by its bytes alone.
        """
        return self._jobs - self._blocked

    def add(self, job: Job, ticket: Ticket, now: float) -> None:
        """Queue a job. ``now`` is seconds of a monotonic clock; a coarse one will do."""
        alone = job.attempt > 1 and self._alone(job)
        self._put(Waiting(self._number, job, ticket, job_size(job), now, alone))

    @property
    def room(self) -> int:
        """How many jobs fit into a batch; which ones that are is known when it is taken."""
        return self._max_jobs

    def add_many(self, jobs: Sequence[Job], ticket: Ticket, size: int, now: float) -> None:
        """Queue jobs of one transaction that were never tried, ``size`` bytes in all."""
        for job in jobs:
            self._put(Waiting(self._number, job, ticket, job_size(job), now))

    def add_dead(self, job: Job, why: str, ticket: Ticket, now: float) -> None:
        """Queue a job that no handler shall see: its row could not be decoded."""
        self._put(Waiting(self._number, job, ticket, job_size(job), now, True, why))

    def limit(self, max_jobs: int) -> None:
        """Cut batches of so many jobs from here on."""
        self._max_jobs = max_jobs

    def ready(self, now: float, *, idle: bool) -> bool:
        """Whether a worker should be given something now."""
        first = self._first()
        if first is None:
            return False

        return (
            idle
            or first.alone
            or self.jobs >= self._max_jobs
            or self.size >= self._max_bytes
            or now - first.at >= self._max_age
        )

    def take(self) -> Batch | None:
        """The oldest jobs that may run now, complete or not; None if there are none."""
        first = self._first()
        if first is None:
            return None

        batch = Batch(first.dead)
        taken: list[Waiting] = []
        while first is not None and (not taken or self._fits(first, batch)):
            taken.append(self._pop(batch))
            batch.size += first.size
            if first.alone or len(taken) >= self._max_jobs or batch.size >= self._max_bytes:
                break

            first = self._first(batch)

        # As they came, for those of a freed lane had their turn late.
        taken.sort(key=_NUMBER)
        batch.jobs = [each.job for each in taken]
        batch.tickets = [each.ticket for each in taken]
        batch.expires = any(job.expires_us is not None for job in batch.jobs)
        return batch

    def release(self, batch: Batch) -> None:
        """A batch is done: the next jobs of its keys may run."""
        for job in batch.jobs:
            key = job.key
            if key is None or (lane := self._lanes.get(key)) is None or lane.busy is not batch:
                continue

            lane.busy = None
            if lane.passed and not lane.freed:
                lane.freed = True
                self._blocked -= lane.passed
                heappush(self._freed, (lane.waiting[0].number, lane))

            if not lane.waiting:
                del self._lanes[key]

    def clear(self) -> int:
        """Forget what was not handed out: the log still holds it. Returns how many jobs."""
        forgotten = self._jobs
        self._lanes.clear()
        self._turns.clear()
        self._freed.clear()
        self._jobs = self._blocked = self.size = 0
        return forgotten

    def _put(self, waiting: Waiting) -> None:
        self._number += 1
        self._jobs += 1
        self.size += waiting.size
        key = waiting.job.key
        if key is None:
            self._turns.append(waiting)
            return

        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane()

        lane.waiting.append(waiting)
        self._turns.append(lane)

    def _first(self, batch: Batch | None = None) -> Waiting | None:
        """Whose turn it is, for a batch that is being made; turns of busy lanes pass."""
        freed = self._freed
        while freed:
            lane = freed[0][1]
            if self._is_open(lane, batch):
                return lane.waiting[0]

            # What is left of it waits for the batch that has its first jobs.
            heappop(freed)
            lane.freed = False
            self._blocked += lane.passed

        turns = self._turns
        while turns:
            turn = turns[0]
            if type(turn) is Waiting:
                return turn

            assert type(turn) is Lane
            if self._is_open(turn, batch):
                return turn.waiting[0]

            turns.popleft()
            turn.passed += 1
            self._blocked += 1

        return None

    def _is_open(self, lane: Lane, batch: Batch | None) -> bool:
        if lane.busy is None:
            return True

        return lane.busy is batch and self._shares(lane.waiting[0].job.key or "")

    def _fits(self, first: Waiting, batch: Batch) -> bool:
        return not first.alone and batch.size + first.size <= self._max_bytes

    def _pop(self, batch: Batch) -> Waiting:
        """Take the one whose turn it is."""
        if self._freed:
            lane = self._freed[0][1]
            lane.passed -= 1
            if lane.passed:
                heapreplace(self._freed, (lane.waiting[1].number, lane))
            else:
                heappop(self._freed)
                lane.freed = False
        else:
            turn = self._turns.popleft()
            if type(turn) is Waiting:
                return self._gone(turn)

            assert type(turn) is Lane
            lane = turn

        lane.busy = batch
        return self._gone(lane.waiting.popleft())

    def _gone(self, waiting: Waiting) -> Waiting:
        self._jobs -= 1
        self.size -= waiting.size
        return waiting
