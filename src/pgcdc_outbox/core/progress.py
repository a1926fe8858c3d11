"""The translation between jobs, which finish in any order, and the one number of a slot."""

from collections import deque
from collections.abc import Iterable

from pgcdc_outbox.lsn import LSN

# Beyond so many open tickets the settled ones among them are merged, so that one
# job that never ends does not make the ledger of the others grow without bound.
_COMPACT_AT = 4096


class Ticket:
    """A transaction that is not settled yet: what it owes, and where it ends."""

    __slots__ = ("end", "owed")

    def __init__(self) -> None:
        self.owed = 1
        self.end = LSN(0)


class Progress:
    """The position up to which every job is settled.

    Invariants, each the subject of a property test:

    - `flushed` never moves back;
    - `flushed` never reaches the end of a transaction with an unsettled job;
    - with nothing open, `flushed` follows what the server has sent.
    """

    def __init__(self, start: LSN) -> None:
        self.flushed = start
        self.received = start
        self._open: deque[Ticket] = deque()
        self._compact_at = _COMPACT_AT

    @property
    def open(self) -> int:
        """How many transactions are not settled (merged ones count once)."""
        return len(self._open)

    def begin(self) -> Ticket:
        """Open a transaction. It starts out owing one thing: its own commit.

        The caller adds one to `Ticket.owed` for each job it hands out.
        """
        if len(self._open) >= self._compact_at:
            self._compact()

        ticket = Ticket()
        self._open.append(ticket)
        return ticket

    def commit(self, ticket: Ticket, end: LSN) -> None:
        """Note that the transaction was received to its end."""
        ticket.end = end
        ticket.owed -= 1
        self.observe(end)

    def observe(self, position: LSN) -> None:
        """Note how far the server has sent: a commit's end, or a keepalive's."""
        if position > self.received:
            self.received = position

        self._advance()

    def settle(self, tickets: Iterable[Ticket]) -> None:
        """Note that the fate of one job of each of these is durable."""
        for ticket in tickets:
            ticket.owed -= 1

        self._advance()

    def _advance(self) -> None:
        waiting = self._open
        while waiting and not waiting[0].owed:
            self.flushed = max(self.flushed, waiting.popleft().end)

        if not waiting:
            self.flushed = self.received

    def _compact(self) -> None:
        """Keep, of each run of settled tickets, the last: its end implies the others'."""
        kept: deque[Ticket] = deque()
        for ticket in self._open:
            if kept and not ticket.owed and not kept[-1].owed:
                kept.pop()

            kept.append(ticket)

        self._open = kept
        self._compact_at = max(_COMPACT_AT, 2 * len(kept))
