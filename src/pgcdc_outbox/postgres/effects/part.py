"""One part of a transaction, as a handler gets it."""

from collections.abc import Callable, Sequence
from typing import Any, get_origin

import psycopg

from pgcdc_outbox.errors import HandlerInvalid
from pgcdc_outbox.job import NewJob
from pgcdc_outbox.postgres.effects.guard import Loan
from pgcdc_outbox.postgres.effects.lent_async import LentAsyncConnection
from pgcdc_outbox.postgres.effects.lent_sync import LentConnection
from pgcdc_outbox.postgres.effects.transaction import Transaction
from pgcdc_outbox.postgres.producer.client import AsyncClient


class Part:
    """Lends the connection out, under the guises that are asked for, until it is over."""

    def __init__(self, transaction: Transaction, client: AsyncClient) -> None:
        self._transaction = transaction
        self._client = client
        self._loan = Loan()
        self._lent: dict[type, Any] = {}

    async def connection(self, kind: type) -> Any:
        """The guarded connection, as that class. Raises `HandlerInvalid` for one not known."""
        self._loan.check()
        kind = get_origin(kind) or kind
        if kind not in self._lent:
            self._lent[kind] = _lender(kind)(self._transaction.connection, self._loan)

        return self._lent[kind]

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[int]:
        """Enqueue jobs that commit with this part; their ids, in the same order."""
        self._loan.check()
        return await self._client.enqueue_many(jobs, tx=self._transaction.connection)

    async def finish(self) -> None:
        """Send what is not sent yet."""

    def end(self) -> None:
        """Let nobody use it any more."""
        self._loan.over = True
        if any(lent.in_use for lent in self._lent.values()):
            # A thread that was abandoned, or a task that was forgotten.
            self._transaction.cut()


def _lender(kind: type) -> Callable[[Any, Loan], Any]:
    if kind is psycopg.AsyncConnection:
        return LentAsyncConnection

    if kind is psycopg.Connection:
        return LentConnection

    raise HandlerInvalid(
        f"connection: {getattr(kind, '__qualname__', kind)!r} is not known",
        hint="Ask for psycopg.AsyncConnection or psycopg.Connection, or for AsyncSession or "
        "Session of SQLAlchemy.",
    )
