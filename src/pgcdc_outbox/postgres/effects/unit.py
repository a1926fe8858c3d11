"""The unit of one call: its transaction, if it wants one, and what it is to do once."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import anyio

from pgcdc_outbox.consumer.ports import Ledger
from pgcdc_outbox.errors import Fenced, NotCommitted, OutboxError, TransactionOwned
from pgcdc_outbox.job import Job, NewJob
from pgcdc_outbox.postgres.effects.desk import Desk
from pgcdc_outbox.postgres.effects.part import Part
from pgcdc_outbox.postgres.effects.transaction import CommitUnknown, Transaction, cause_of
from pgcdc_outbox.postgres.to_its_end import to_its_end

# How long what ends a part may take, after its task was cancelled.
_GRACE_SECONDS = 2.0


class PostgresUnit:
    """What one call may write together with its outcome, or before it."""

    def __init__(self, desk: Desk, *, epoch: int) -> None:
        self.consumer = desk.consumer
        self.schema = desk.schema
        self.instance = desk.instance
        self.jobs: dict[int, Job] = {}
        self.once: dict[int, Job] = {}
        self._desk = desk
        self._epoch = epoch
        self._turn = anyio.Lock()
        self._transaction: Transaction | None = None

    @asynccontextmanager
    async def effects(self, jobs: Sequence[Job]) -> AsyncIterator[Part]:
        """A part of the transaction, which is begun if this is the first."""
        if self._turn.statistics().owner == anyio.get_current_task():
            raise TransactionOwned(
                "effects: a part was begun within another",
                hint="End the first before the second begins, or do both in one.",
            )

        async with self._turn:
            if self._transaction is None:
                self._transaction = await self._desk.take()

            await self._transaction.enter()
            async with self._part(self._transaction) as part:
                yield part

            self.jobs.update({job.id: job for job in jobs})

    async def begin_once(self, jobs: Sequence[Job]) -> None:
        """Note durably that these jobs run now, and must not be run again."""
        await self._desk.note_once(jobs, epoch=self._epoch)
        self.once.update({job.id: job for job in jobs})

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[int]:
        """Enqueue jobs in a transaction of their own; their ids."""
        return await self._desk.client.enqueue_many(jobs)

    async def undo(self) -> None:
        """Roll back whatever was done: the call failed as a whole."""
        self.jobs.clear()
        await self.close()

    async def commit(self, write: Callable[[Ledger], Awaitable[None]]) -> None:
        """Write the outcomes in the transaction, and commit it.

        Raises `NotCommitted` and `Fenced`: nothing of it happened.
        """
        transaction = self._transaction
        assert transaction is not None, "there is nothing to commit"
        await to_its_end(
            lambda: self._commit(transaction, write),
            grace=_GRACE_SECONDS,
            give_up=lambda: _cut(transaction),
        )

    async def _commit(
        self, transaction: Transaction, write: Callable[[Ledger], Awaitable[None]]
    ) -> None:
        try:
            await transaction.check()
            await write(self._desk.ledger(transaction))
            await transaction.commit()
        except CommitUnknown as error:
            lost = error.__cause__
            assert isinstance(lost, Exception)
            if not await self._desk.was_committed(transaction.xid, next(iter(self.jobs.values()))):
                raise NotCommitted(f"the connection was lost: {lost}", cause=lost) from lost
        except (Fenced, NotCommitted):
            raise
        except OutboxError as error:
            raise NotCommitted(str(error), cause=cause_of(error)) from error

    async def close(self) -> None:
        """Roll back what was not committed, and give the connection back."""
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            await self._desk.give_back(transaction)

    @asynccontextmanager
    async def _part(self, transaction: Transaction) -> AsyncIterator[Part]:
        part = Part(transaction, self._desk.client, self._desk.guises)
        try:
            yield part
            await part.flush()
            await part.end()
            await transaction.keep()
        except BaseException:
            with anyio.move_on_after(_GRACE_SECONDS, shield=True) as scope:
                await part.end()
                await transaction.undo()

            if scope.cancelled_caught:
                transaction.cut()

            raise


async def _cut(transaction: Transaction) -> None:
    transaction.cut()
