"""Progress never forgets a job, whatever the order of events."""

import sys
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pgcdc_outbox.core import progress as module
from pgcdc_outbox.core.progress import Progress, Ticket
from pgcdc_outbox.lsn import LSN

START = LSN(1000)


class Transaction:
    """What the test knows of a transaction: the tickets of both ledgers, and its own count."""

    def __init__(self, tickets: tuple[Ticket, Ticket]) -> None:
        self.tickets = tickets
        self.unsettled = 0
        self.end: LSN | None = None

    @property
    def settled(self) -> bool:
        return self.end is not None and not self.unsettled


class ProgressMachine(RuleBasedStateMachine):
    """Transactions come one after the other; their jobs are settled in any order.

    Two ledgers are kept: one merges settled tickets at every opportunity, the
    other never does. Nobody may see a difference.
    """

    def __init__(self) -> None:
        super().__init__()
        self.progress = Progress(START)
        self.plain = Progress(START)
        self.plain._compact_at = sys.maxsize
        self.transactions: list[Transaction] = []
        self.current: Transaction | None = None
        self.received = START
        self.highest = START

    def teardown(self) -> None:
        """In the end everything is settled, from the oldest on."""
        if self.current is not None:
            self.commit(1)

        for transaction in self.transactions:
            for ledger, ticket in self.both(transaction):
                ledger.settle([ticket] * transaction.unsettled)

            transaction.unsettled = 0
            self.never_reaches_the_end_of_an_unsettled_transaction()
            self.reaches_the_end_of_everything_settled_before()
            self.merging_changes_nothing_but_the_size()

        self.follows_what_was_received_when_nothing_is_open()

    @precondition(lambda self: self.current is None)
    @rule()
    def begin(self) -> None:
        self.progress._compact_at = 0
        self.current = Transaction((self.progress.begin(), self.plain.begin()))
        self.transactions.append(self.current)

    @precondition(lambda self: self.current is not None)
    @rule(jobs=st.integers(1, 3))
    def add_jobs(self, jobs: int) -> None:
        for ticket in self.current.tickets:
            ticket.owed += jobs

        self.current.unsettled += jobs

    @precondition(lambda self: self.current is not None)
    @rule(size=st.integers(1, 100))
    def commit(self, size: int) -> None:
        end = LSN(self.received + size)
        assert self.progress.flushed < end, "passed the end of a transaction still arriving"
        self.received = end
        self.current.end = end
        for ledger, ticket in self.both(self.current):
            ledger.commit(ticket, end)

        self.current = None

    @precondition(lambda self: self.current is None)
    @rule(jobs=st.lists(st.integers(0, 2), min_size=1, max_size=4), size=st.integers(1, 100))
    def whole_transactions(self, jobs: list[int], size: int) -> None:
        for number in jobs:
            self.begin()
            self.add_jobs(number)
            self.commit(size)

    @precondition(lambda self: any(each.unsettled for each in self.transactions))
    @rule(data=st.data())
    def settle_a_batch(self, data: st.DataObject) -> None:
        owing = [each for each in self.transactions for _ in range(each.unsettled)]
        batch = [
            owing[place]
            for place in data.draw(st.sets(st.integers(0, len(owing) - 1), min_size=1, max_size=4))
        ]
        for transaction in batch:
            transaction.unsettled -= 1

        self.progress.settle([each.tickets[0] for each in batch])
        self.plain.settle([each.tickets[1] for each in batch])

    @rule(distance=st.integers(-50, 100))
    def keepalive(self, distance: int) -> None:
        position = LSN(max(self.received + distance, 0))
        self.received = max(self.received, position)
        self.progress.observe(position)
        self.plain.observe(position)

    @invariant()
    def never_moves_back(self) -> None:
        assert self.progress.flushed >= self.highest
        self.highest = self.progress.flushed

    @invariant()
    def never_reaches_the_end_of_an_unsettled_transaction(self) -> None:
        assert all(
            self.progress.flushed < each.end
            for each in self.transactions
            if each.unsettled and each.end is not None
        )

    @invariant()
    def reaches_the_end_of_everything_settled_before(self) -> None:
        for transaction in self.transactions:
            if not transaction.settled:
                return

            assert self.progress.flushed >= transaction.end

    @invariant()
    def follows_what_was_received_when_nothing_is_open(self) -> None:
        assert self.progress.received == self.received
        if all(each.settled for each in self.transactions):
            assert self.progress.flushed == self.received
            assert self.progress.open == 0
        else:
            assert self.progress.open > 0

    @invariant()
    def merging_changes_nothing_but_the_size(self) -> None:
        assert self.progress.flushed == self.plain.flushed
        assert self.progress.received == self.plain.received
        assert self.progress.open <= self.plain.open

    def both(self, transaction: Transaction) -> list[tuple[Progress, Ticket]]:
        return list(zip((self.progress, self.plain), transaction.tickets, strict=True))


TestProgress = ProgressMachine.TestCase
TestProgress.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)


def test_a_server_that_goes_back_does_not_take_us_along() -> None:
    progress = Progress(START)
    progress.observe(LSN(START + 100))
    ticket = progress.begin()
    ticket.owed += 1
    progress.commit(ticket, LSN(START + 50))

    progress.settle([ticket])
    second = progress.begin()
    second.owed += 1
    progress.commit(second, LSN(START + 60))
    third = progress.begin()
    progress.settle([second])

    assert progress.flushed == START + 100
    progress.commit(third, LSN(START + 200))
    assert progress.flushed == START + 200


def test_one_job_that_never_ends_does_not_make_the_ledger_grow() -> None:
    progress = Progress(START)
    stuck = progress.begin()
    stuck.owed += 1
    progress.commit(stuck, LSN(START + 1))

    for number in range(3 * module._COMPACT_AT):
        ticket = progress.begin()
        ticket.owed += 1
        progress.commit(ticket, LSN(START + 2 + number))
        progress.settle([ticket])
        assert progress.open <= module._COMPACT_AT + 1

    assert progress.flushed == START
    progress.settle([stuck])
    assert progress.flushed == progress.received == START + 1 + 3 * module._COMPACT_AT


def test_merging_is_not_repeated_in_vain() -> None:
    """When little can be merged the threshold rises, or each begin would walk the whole queue."""
    with mock.patch.object(module, "_COMPACT_AT", 8):
        progress = Progress(START)
        walks = 0
        compact = progress._compact

        def counted() -> None:
            nonlocal walks
            walks += 1
            compact()

        progress._compact = counted
        for number in range(1024):
            ticket = progress.begin()
            ticket.owed += 1
            progress.commit(ticket, LSN(START + 1 + number))

    assert progress.open == 1024
    assert walks <= 8
