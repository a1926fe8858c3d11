"""What the consumer needs from outside, each documented by its duty."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from pgcdc_outbox.consumer.intake import Intake
from pgcdc_outbox.core.batching import Batch
from pgcdc_outbox.core.verdict import Failure
from pgcdc_outbox.events import Event
from pgcdc_outbox.job import Job
from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.outcome import Outcome

UserHandler = (
    Callable[[Sequence[Job]], object] | Callable[[Sequence[Job]], Awaitable[object]] | object
)
"""A function of a batch, sync or async, or an object with ``handle`` and perhaps ``close``."""

HandlerResult = Mapping[int, Outcome] | Sequence[int] | None


class Feed(Protocol):
    """An open source: one hold of one consumer."""

    epoch: int
    """Names this hold; a later one is higher."""

    @property
    def flushed(self) -> LSN:
        """Everything before it is settled."""
        ...

    async def run(self, intake: Intake) -> None:
        """Fill the intake and report progress, until cancelled.

        When the intake is closed it reads no more but goes on reporting.
        Raises an `OutboxError` when the hold is lost.
        """
        ...

    def settle(self, batch: Batch) -> None:
        """The fate of every job of the batch is durable: never deliver these again."""
        ...

    async def caught_up(self) -> None:
        """Return once everything committed before the source was opened is settled."""
        ...

    async def over(self) -> None:
        """Return when this feed has done its part: the source is to be opened again."""
        ...

    async def finish(self) -> None:
        """Tell the server the last position and let go in good order."""
        ...


class Source(Protocol):
    """Where jobs come from."""

    def open(self) -> AbstractAsyncContextManager[Feed]:
        """Take hold of the consumer.

        Raises `SlotInUse` while another instance has it, and transient errors
        while the server cannot be reached.
        """
        ...

    def close(self) -> None:
        """Let go of what is kept between two attempts to open."""
        ...


class Ledger(Protocol):
    """Where failures become durable."""

    async def record(self, failures: Sequence[Failure], *, epoch: int) -> None:
        """Write all of them, or none.

        Writing the same twice changes nothing. Raises `Fenced` for an old
        epoch, and `LedgerUnavailable` when trying again may help.
        """
        ...

    async def check(self, *, epoch: int) -> None:
        """Raise `Fenced` if the epoch is over."""
        ...


class Chore(Protocol):
    """Work beside the jobs, done while the consumer is held."""

    name: str

    async def once(self) -> float:
        """Do what is due; return after how many seconds to come again."""
        ...


class Observer(Protocol):
    """Is told what happens, on the event loop: keep it short."""

    def __call__(self, event: Event, /) -> None: ...
