"""What producers and handler note down themselves, apart from the outbox.

The outbox is judged by it, so nothing in it comes from the outbox but the number
of an attempt. Times are `time.monotonic`, which is one clock for all processes.
"""

from msgspec import Struct

from pgcdc_outbox.demo.orders import MAX_ATTEMPTS, Kind


class Order(Struct, frozen=True, kw_only=True):
    """An order whose transaction ended."""

    number: int
    kind: Kind
    job_id: int
    committed: bool
    ended: float
    """When COMMIT or ROLLBACK had returned."""
    due: float | None
    """When its job is due at the earliest, if that is later."""


class Call(Struct, frozen=True, kw_only=True):
    """A job that the handler got."""

    number: int
    attempt: int
    entered: float
    """When the handler was entered."""
    succeeded: bool


class Record:
    """The notes of one run."""

    def __init__(self) -> None:
        self.committed: list[Order] = []
        self.rolled_back: list[Order] = []
        self.calls: list[Call] = []
        self.succeeded: dict[int, int] = {}
        self.exhausted: set[int] = set()
        self.earlier = 0

    def note_order(self, order: Order) -> None:
        """Note what a producer did."""
        (self.committed if order.committed else self.rolled_back).append(order)

    def note_call(self, call: Call) -> None:
        """Note what the handler got, and what it made of it."""
        self.calls.append(call)
        if call.succeeded:
            self.succeeded[call.number] = self.succeeded.get(call.number, 0) + 1
        elif call.attempt >= MAX_ATTEMPTS:
            self.exhausted.add(call.number)

    def note_earlier(self) -> None:
        """Note a job that an earlier run left in the data folder."""
        self.earlier += 1

    @property
    def waiting(self) -> int:
        """Committed orders whose job is neither handled nor given up."""
        return sum(
            order.number not in self.succeeded and order.number not in self.exhausted
            for order in self.committed
        )
