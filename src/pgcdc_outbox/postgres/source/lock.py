"""The lock that makes one instance the one that runs a consumer."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeVar

import anyio

from pgcdc_outbox.consumer.together import beside
from pgcdc_outbox.errors import OutboxError
from pgcdc_outbox.postgres.names import lock_key
from pgcdc_outbox.postgres.queries import query
from pgcdc_outbox.postgres.session import Session

IDLE_SECONDS: Final = 15
"""The server ends a holder that was silent for so long: stopped, cut off, or wedged."""


_CHECK_SECONDS: Final = 2.0
_GIVE_BACK_SECONDS: Final = 1.0

T = TypeVar("T")


class Lock:
    """An advisory lock, held by a session or by a transaction that stays open.

    A pooler in transaction mode gives a server's session to others as soon as a
    transaction ends, with every lock that it has. But it leaves an open
    transaction alone. So whoever may be behind one holds the lock in a
    transaction, which does nothing else: it has no snapshot and no transaction
    id, and keeps nothing from being vacuumed.
    """

    def __init__(self, session: Session, *, in_transaction: bool) -> None:
        self._session = session
        self._in_transaction = in_transaction

    async def take(self, *, consumer: str, schema: str, doing: str) -> bool:
        """Try to take it. Raises `OutboxError`."""
        key = {"key": lock_key(schema, f"consumer {consumer}")}
        if self._in_transaction:
            await self._session.rows("begin", doing=doing)

        await self._session.rows(
            query("end_when_silent", schema),
            {"seconds": f"{IDLE_SECONDS}s", "local": self._in_transaction},
            doing=doing,
        )
        name = "try_transaction_lock" if self._in_transaction else "try_lock"
        (locked,) = await self._session.row(query(name, schema), key, doing=doing)
        if not locked and self._in_transaction:
            await self._session.rows("rollback", doing=doing)

        return bool(locked)

    async def give_back(self) -> None:
        """End the transaction, if it is one, so that a pooler can use the connection again.

        In good order or not at all: closing the connection has the same effect.
        """
        if self._in_transaction and self._session.is_open:
            with anyio.move_on_after(_GIVE_BACK_SECONDS, shield=True), suppress(OutboxError):
                await self._session.rows("rollback", doing="give the lock back")

    async def keep(self) -> None:
        """Show the server that we are there, until cancelled.

        Raises `OutboxError` when the lock is lost.
        """
        while True:
            await self._session.rows(
                "select 1", doing="check the lock of the consumer", within=IDLE_SECONDS
            )
            await anyio.sleep(_CHECK_SECONDS)

    async def during(self, step: Callable[[], Awaitable[T]]) -> T:
        """Take a step that may wait long, and keep the lock meanwhile."""
        return await beside(step, self.keep)
