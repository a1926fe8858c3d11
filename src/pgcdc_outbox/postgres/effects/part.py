"""One part of a transaction, as a handler gets it."""

from collections.abc import Sequence
from typing import Any

from pgcdc_outbox.job import NewJob
from pgcdc_outbox.postgres.effects.guard import Loan
from pgcdc_outbox.postgres.effects.guises import Guise, Guises, class_of
from pgcdc_outbox.postgres.effects.transaction import Transaction
from pgcdc_outbox.postgres.producer.client import AsyncClient


class Part:
    """Lends the connection out, in the guises that are asked for, until it is over."""

    def __init__(self, transaction: Transaction, client: AsyncClient, guises: Guises) -> None:
        self._transaction = transaction
        self._client = client
        self._guises = guises
        self._loan = Loan()
        self._lent: dict[Any, Guise] = {}

    async def connection(self, kind: type) -> Any:
        """The guarded connection, as that class. Raises `HandlerInvalid` for one not known."""
        self._loan.check()
        # What one guise keeps back, another is to see.
        await self.flush()
        kind = class_of(kind)
        if kind not in self._lent:
            self._lent[kind] = await self._guises.make(
                kind, self._transaction.connection, self._loan
            )

        return self._lent[kind].object

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[int]:
        """Enqueue jobs that commit with this part; their ids, in the same order."""
        self._loan.check()
        return await self._client.enqueue_many(jobs, tx=self._transaction.connection)

    async def flush(self) -> None:
        """Send what is not sent yet."""
        for lent in self._lent.values():
            await lent.flush()

    async def end(self) -> None:
        """Let nobody use it any more."""
        self._loan.over = True
        for lent in self._lent.values():
            if lent.in_use:
                # A thread that was abandoned, or a task that was forgotten.
                self._transaction.cut()
            else:
                await lent.close()
