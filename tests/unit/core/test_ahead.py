"""What is settled ahead of the flushed position is remembered, and forgotten when passed."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcdc_outbox.core import ahead as ahead_module
from pgcdc_outbox.core.ahead import Ahead
from pgcdc_outbox.core.deliveries import settled
from pgcdc_outbox.core.progress import Progress, Ticket
from pgcdc_outbox.job import Job
from pgcdc_outbox.lsn import LSN

FIRST = settled(1, 0)
"""The delivery of a job that was never tried."""


def jobs(ids: Sequence[int], attempt: int = 1) -> list[Job]:
    return [Job(id_, "t", b"", attempt=attempt) for id_ in ids]


def test_half_a_transaction_is_remembered_until_it_is_passed() -> None:
    progress, ahead = Progress(LSN(0)), Ahead()
    ticket = progress.begin()
    ticket.owed += 4
    progress.settle([ticket, ticket])
    ahead.add(jobs([1, 2]), [ticket, ticket], progress.flushed)
    assert ahead.deliveries(progress.flushed) == {1: FIRST, 2: FIRST}

    progress.commit(ticket, LSN(10))
    progress.settle([ticket, ticket])
    ahead.add(jobs([3, 4]), [ticket, ticket], progress.flushed)
    assert progress.flushed == 10
    assert ahead.deliveries(progress.flushed) == {}
    assert len(ahead) == 0


def test_the_highest_attempt_counts() -> None:
    progress, ahead = Progress(LSN(0)), Ahead()
    progress.begin()  # never ends
    for attempt in (1, 3, 2):
        ticket = progress.begin()
        progress.commit(ticket, LSN(attempt))
        ahead.add(jobs([7], attempt), [ticket], progress.flushed)

    assert ahead.deliveries(progress.flushed) == {7: settled(3, 0)}


def test_beyond_the_limit_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead_module, "_LIMIT", 3)
    progress, ahead = Progress(LSN(0)), Ahead()
    progress.begin()
    for id_ in range(1, 6):
        ticket = progress.begin()
        progress.commit(ticket, LSN(id_))
        ahead.add(jobs([id_]), [ticket], progress.flushed)

    assert ahead.deliveries(progress.flushed) == {3: FIRST, 4: FIRST, 5: FIRST}


@given(st.permutations(range(8)), st.integers(0, 8))
def test_settled_and_not_passed_is_exactly_what_is_remembered(
    order: list[int], settled: int
) -> None:
    """Each transaction has one job; they are settled in any order, some never."""
    progress, ahead = Progress(LSN(0)), Ahead()
    tickets: list[Ticket] = []
    for number in range(8):
        ticket = progress.begin()
        ticket.owed += 1
        progress.commit(ticket, LSN(number + 1))
        tickets.append(ticket)

    for number in order[:settled]:
        progress.settle([tickets[number]])
        ahead.add(jobs([number]), [tickets[number]], progress.flushed)

    done = set(order[:settled])
    passed = {number for number in range(8) if number + 1 <= progress.flushed}
    assert passed <= done
    assert set(ahead.deliveries(progress.flushed)) == done - passed
