"""What the consumer needs from outside, each documented by its duty."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from pgcdc_outbox.consumer.intake import Intake
from pgcdc_outbox.core.batching import Batch
from pgcdc_outbox.core.call import Execution
from pgcdc_outbox.core.crash import Started
from pgcdc_outbox.core.held_keys import Finished, HeldKey
from pgcdc_outbox.core.verdict import Failure
from pgcdc_outbox.events import Event
from pgcdc_outbox.job import Job, NewJob
from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.outcome import Outcome

UserHandler = (
    Callable[[Sequence[Job]], object] | Callable[[Sequence[Job]], Awaitable[object]] | object
)
"""A function of a batch, sync or async, or an object with ``handle`` and perhaps ``close``."""

HandlerResult = Mapping[int, Outcome] | Sequence[int] | None


class UnitOfWork(Protocol):
    """What one call of the handler may write together with its outcome, or before it.

    Plain handlers know nothing of it. A handler that has a method ``execute``
    is called with the jobs and the unit of that call, instead of ``handle``.
    It is of use during that call alone.
    """

    @property
    def consumer(self) -> str:
        """The name of the consumer."""
        ...

    @property
    def schema(self) -> str:
        """The schema of the outbox."""
        ...

    @property
    def instance(self) -> str:
        """Names the process, as in pg_stat_activity."""
        ...

    def effects(self, jobs: Sequence[Job]) -> AbstractAsyncContextManager["Effects"]:
        """A part of the transaction in which these jobs are settled too.

        The transaction begins with the first part and is committed by the
        consumer after the call, together with the outcomes of all its jobs.

        - If the body raises, what this part did is undone, and no other; the
          error goes on. To undo what a job did, raise, also for an outcome.
        - If it returns, what it did stays, whatever the call says of these jobs.
        - If the call raises in the end, nothing stays. If the commit fails, these
          jobs fail with that error.
        - One part at a time: a second waits for the first to end. Do not begin
          one within another.

        Leaving the block may raise, too: a session is flushed there.
        """
        ...

    async def begin_once(self, jobs: Sequence[Job]) -> None:
        """Note durably that these jobs run now, and must not be run again.

        Afterwards only `Retry`, `Snooze` and `Dead` are failures of theirs as any
        others. Whatever else is raised, a call that is abandoned and a crash leave
        them in doubt: dead letters of that reason, for a person to judge.
        """
        ...

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[int]:
        """Enqueue jobs in a transaction of their own, committed when this returns; their ids."""
        ...


class Effects(Protocol):
    """A part of a transaction that the consumer owns and commits."""

    async def connection(self, kind: type) -> Any:
        """The guarded connection, as an object of that class.

        Which may be `psycopg.AsyncConnection` and `psycopg.Connection`, and of
        SQLAlchemy `AsyncSession` and `Session`. All of them are in the same
        transaction; those that are not async are for functions that run in a
        thread. Asked for twice, it is the same object; when the part ends it is
        of no use any more. Raises `HandlerInvalid` for a class that is not known.
        """
        ...

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[int]:
        """Enqueue jobs that commit with this part; their ids, in the same order."""
        ...


class Unit(UnitOfWork, Protocol):
    """The unit of one call, as the consumer sees it."""

    @property
    def jobs(self) -> Mapping[int, Job]:
        """Those that are settled in its transaction, by id; with none nothing is committed."""
        ...

    @property
    def once(self) -> Mapping[int, Job]:
        """Those that were noted to run once, by id."""
        ...

    async def undo(self) -> None:
        """Roll back whatever was done: the call failed as a whole. `jobs` is empty then."""
        ...

    async def commit(self, write: Callable[["Ledger"], Awaitable[None]]) -> None:
        """Write the outcomes in the transaction, and commit it.

        Raises `NotCommitted` if nothing of it happened, `Fenced` if another
        instance took over, and then nothing of it happened either.
        """
        ...


class Units(Protocol):
    """Where units come from."""

    def open(self, *, epoch: int) -> AbstractAsyncContextManager[Unit]:
        """A unit for one call; what was not committed at the end is rolled back."""
        ...


class Feed(Protocol):
    """An open source: one hold of one consumer."""

    epoch: int
    """Names this hold; a later one is higher."""

    crashes: int
    """Holds in a row, up to this one, that ended with their process and without progress."""

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

    async def progressed(self) -> None:
        """Return once something that this hold settled cannot come again, even after a crash."""
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

    async def record_done(self, jobs: Sequence[Job], *, epoch: int) -> int:
        """Write that these jobs succeeded: their attempts are settled, whatever comes again.

        Returns how many of them were not settled before. Raises as `record` does.
        """
        ...

    async def record_attempts(self, execution: Execution) -> None:
        """Keep what succeeded for the audit; where a transaction is open, in it.

        Raises `LedgerUnavailable` when trying again may help.
        """
        ...

    async def check(self, *, epoch: int) -> None:
        """Raise `Fenced` if the epoch is over."""
        ...


class ParkingLot(Protocol):
    """Where jobs wait behind another of their key.

    What changes it raises `Fenced` for an old epoch, and `LedgerUnavailable` when
    trying again may help.
    """

    async def held(self) -> Sequence[HeldKey]:
        """Every key that is held."""
        ...

    async def unheld(self) -> Sequence[str]:
        """Keys of which jobs are parked, although nothing holds them."""
        ...

    async def orphaned(self) -> Sequence[str]:
        """Keys that are held by a job which is nowhere to be found, or is dead."""
        ...

    async def park(self, jobs: Sequence[Job], held: Sequence[HeldKey], *, epoch: int) -> None:
        """Write all of them, each behind what holds its key, or none.

        Jobs that were parked before get their places back. Writing the same twice
        changes nothing.
        """
        ...

    async def release(self, finished: Sequence[Finished], *, epoch: int) -> Mapping[str, HeldKey]:
        """Put the next parked jobs of these keys back in line.

        Returns what holds those of the keys that are not free then.
        """
        ...


class Register(Protocol):
    """Where executions are noted that may end the process.

    What changes it does nothing twice, raises `Fenced` for an old epoch, and
    `LedgerUnavailable` when trying again may help.
    """

    async def left(self) -> Sequence[Started]:
        """What was noted and not forgotten, in this process or in one before it."""
        ...

    async def start(self, job: Job, *, ended: Mapping[int, int], epoch: int) -> None:
        """Note that a job is about to be executed; forget these attempts, by id."""
        ...

    async def start_once(self, jobs: Sequence[Job], *, epoch: int) -> None:
        """Note that jobs are about to be executed, and must not be again."""
        ...

    async def forget(self, ended: Mapping[int, int], *, epoch: int) -> None:
        """Forget these attempts, by id: they ended."""
        ...

    async def calm(self, *, epoch: int) -> None:
        """Count crashes from nothing: there was progress."""
        ...


class Trail(Protocol):
    """Where executions are kept that succeeded."""

    async def write(self, executions: Sequence[Execution]) -> None:
        """Write all of them, durably.

        If it is not known whether they were written, they may be written twice.
        Raises `LedgerUnavailable` when trying again may help.
        """
        ...


class ServerClock(Protocol):
    """The clock that decides when a job expires."""

    async def now_us(self) -> int:
        """Microseconds since 1970 by the clock of the server, and never behind it.

        Raises `LedgerUnavailable` when the server has to be asked and trying
        again may help.
        """
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
