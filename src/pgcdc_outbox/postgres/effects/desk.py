"""What the units of a consumer share: connections that are kept, and where notes are written."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import psycopg

from pgcdc_outbox.consumer.durably import durably
from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.consumer.ports import Ledger, Register
from pgcdc_outbox.errors import LedgerUnavailable, OutboxError
from pgcdc_outbox.job import Job
from pgcdc_outbox.postgres.effects.fate import was_committed
from pgcdc_outbox.postgres.effects.guises import Guises
from pgcdc_outbox.postgres.effects.transaction import Transaction
from pgcdc_outbox.postgres.ledger.ledger import PostgresLedger
from pgcdc_outbox.postgres.opening import connect
from pgcdc_outbox.postgres.producer.client import AsyncClient
from pgcdc_outbox.postgres.session import Session

T = TypeVar("T")


class Desk:
    """Lends connections to units, one to each, as many as run at a time.

    A connection is opened when it is first needed, kept, and opened again when it
    was lost. To have none is no failure of a job: it waits.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        consumer: str,
        schema: str,
        instance: str,
        prepares: bool,
        holds_keys: bool,
        beside: Session,
        register: Register,
        notice: Notice,
    ) -> None:
        """``beside`` is where it is asked what became of a commit; see `Session` for the rest."""
        self.consumer = consumer
        self.schema = schema
        self.instance = instance
        self.guises = Guises()
        self.client = AsyncClient(_Pool(self), schema=schema)
        self._conninfo = conninfo
        self._prepares = prepares
        self._holds_keys = holds_keys
        self._beside = beside
        self._register = register
        self._notice = notice
        self._idle: list[Transaction] = []

    def ledger(self, transaction: Transaction) -> Ledger:
        """A ledger that writes in this transaction."""
        return PostgresLedger(
            transaction,
            consumer=self.consumer,
            schema=self.schema,
            instance=self.instance,
            holds_keys=self._holds_keys,
        )

    async def take(self) -> Transaction:
        """A connection on which to begin; waits for as long as there is none to be had."""
        while self._idle:
            kept = self._idle.pop()
            if kept.usable:
                return kept

            await kept.close()

        return await self._durably(self._open, "connect for effects")

    async def give_back(self, transaction: Transaction) -> None:
        """Roll back what is open, and keep the connection, if it is still good."""
        await transaction.rollback()
        if transaction.usable:
            self._idle.append(transaction)
        else:
            await transaction.close()

    async def note_once(self, jobs: Sequence[Job], *, epoch: int) -> None:
        """Note durably that these jobs run now, and must not be run again."""
        await self._durably(
            lambda: self._register.start_once(jobs, epoch=epoch), "note what is to run once"
        )

    async def was_committed(self, xid: str, job: Job) -> bool:
        """Whether a transaction was committed in which the outcome of this job was written.

        Waits until that is certain.
        """
        return await self._durably(
            lambda: was_committed(
                self._beside, xid, job, consumer=self.consumer, schema=self.schema
            ),
            "find out whether effects were committed",
        )

    async def close(self) -> None:
        """Close every connection that is not lent out."""
        while self._idle:
            await self._idle.pop().close()

    async def _open(self) -> Transaction:
        try:
            connection = await connect(
                self._conninfo, name=self.instance, doing="connect for effects"
            )
        except OutboxError as error:
            # The consumer itself was let in: whatever it is, it may pass.
            raise LedgerUnavailable(str(error), hint=error.hint) from error

        if not self._prepares:
            connection.prepare_threshold = None

        return Transaction(connection)

    async def _durably(self, step: Callable[[], Awaitable[T]], doing: str) -> T:
        return await durably(step, doing=doing, consumer=self.consumer, notice=self._notice)


class _Pool:
    """What a client needs of a pool: a connection for a moment."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[psycopg.AsyncConnection[tuple[object, ...]]]:
        """Lend a connection with no transaction open."""
        lent = await self._desk.take()
        try:
            yield lent.connection
        finally:
            await self._desk.give_back(lent)
