"""Batches that are taken apart, and limits that change; `tests/properties` has the rest."""

import pytest

from pgcdc_outbox.core.batching import Batch, Batcher
from pgcdc_outbox.core.lanes import Lanes
from pgcdc_outbox.core.progress import Ticket
from pgcdc_outbox.job import Job

JOBS = [Job(id_, "topic", b"") for id_ in range(1, 6)]


def taken(batcher: Batcher) -> list[list[int]]:
    batches = []
    while batch := batcher.take():
        batches.append([job.id for job in batch.jobs])

    return batches


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize(
    ("before", "after", "batches"),
    [
        (3, 1, [[1], [2], [3], [4], [5]]),
        (1, 3, [[1, 2, 3], [4, 5]]),
        (3, 2, [[1, 2], [3, 4], [5]]),
    ],
)
def test_another_limit_is_for_what_is_held_too(
    many: bool, before: int, after: int, batches: list[list[int]]
) -> None:
    batcher, ticket = Batcher(max_jobs=before, max_bytes=1 << 20, max_age=0), Ticket()

    def add(jobs: list[Job]) -> None:
        if many:
            batcher.add_many(jobs, ticket, 0, 0.0)
        else:
            for job in jobs:
                batcher.add(job, ticket, 0.0)

    add(JOBS[:2])
    batcher.limit(after)
    add(JOBS[2:])

    assert taken(batcher) == batches
    assert (batcher.jobs, batcher.size) == (0, 0)


def test_another_limit_joins_none_that_goes_alone() -> None:
    batcher = Batcher(max_jobs=1, max_bytes=1 << 20, max_age=0, alone=lambda job: job.attempt == 3)
    for id_, attempt in ((1, 1), (2, 3), (3, 2), (4, 1)):
        batcher.add(Job(id_, "topic", b"", attempt=attempt), Ticket(), 0.0)

    batcher.add_dead(Job(5, "topic", b""), "no payload", Ticket(), 0.0)
    batcher.limit(10)

    assert taken(batcher) == [[1], [2], [3, 4], [5]]


def test_a_part_keeps_jobs_and_tickets_together() -> None:
    whole = Batch()
    whole.jobs, whole.tickets = list(JOBS), [Ticket() for _ in JOBS]

    part = whole.part(lambda job: job.id % 2 == 0)

    assert part.jobs == [JOBS[1], JOBS[3]]
    assert part.tickets == [whole.tickets[1], whole.tickets[3]]
    assert whole.jobs == JOBS


def test_a_batch_says_whether_one_of_its_jobs_may_expire() -> None:
    batcher, ticket = Batcher(max_jobs=2, max_bytes=1 << 20, max_age=0), Ticket()
    batcher.add_many(JOBS[:3], ticket, 0, 0.0)
    batcher.add(Job(9, "topic", b"", expires_us=1), ticket, 0.0)
    batcher.add(JOBS[4], ticket, 0.0)

    batches = [batch for _ in range(3) if (batch := batcher.take())]
    assert [batch.expires for batch in batches] == [False, True, False]
    assert batches[1].part(lambda job: job.id == 9).expires


@pytest.mark.parametrize("kind", [Batcher, Lanes])
def test_a_batch_says_whether_one_of_its_jobs_expires(kind: type[Batcher] | type[Lanes]) -> None:
    batcher = kind(max_jobs=2, max_bytes=1 << 20, max_age=0)
    for job in (JOBS[0], JOBS[1], JOBS[2], Job(9, "topic", b"", expires_us=1)):
        batcher.add(job, Ticket(), 0.0)

    batches = [batcher.take(), batcher.take()]

    assert [batch and batch.expires for batch in batches] == [False, True]
