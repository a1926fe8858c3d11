"""Which object stands for the class that a handler asks for."""

from typing import Any, Protocol, get_origin

import psycopg

from pgcdc_outbox.errors import HandlerInvalid
from pgcdc_outbox.postgres.effects.guard import Loan
from pgcdc_outbox.postgres.effects.lent_async import LentAsyncConnection
from pgcdc_outbox.postgres.effects.lent_sync import LentConnection
from pgcdc_outbox.postgres.statements import Connection


class Guise(Protocol):
    """A connection as one class or another."""

    object: Any
    """What the handler gets."""

    @property
    def in_use(self) -> bool:
        """Whether a statement runs on it right now."""
        ...

    async def flush(self) -> None:
        """Send what is not sent yet."""
        ...

    async def close(self) -> None:
        """Let go of it; nothing is sent."""
        ...


class Guises:
    """Makes them. What takes time to make is made once and kept."""

    def __init__(self) -> None:
        self._engines: Any = None

    async def make(self, kind: type, owner: Connection, loan: Loan) -> Guise:
        """The guise of that class. Raises `HandlerInvalid` for one that is not known."""
        if kind is psycopg.AsyncConnection:
            return _Plain(LentAsyncConnection(owner, loan))

        if kind is psycopg.Connection:
            return _Plain(LentConnection(owner, loan))

        # Told by the names, so that SQLAlchemy is not imported before it is asked for.
        if any(each.__module__.startswith("sqlalchemy.") for each in getattr(kind, "__mro__", ())):
            return await self._session(kind, owner, loan)

        raise _unknown(kind)

    async def _session(self, kind: type, owner: Connection, loan: Loan) -> Guise:
        from pgcdc_outbox.postgres.effects import with_sqlalchemy

        self._engines = self._engines or with_sqlalchemy.Engines()
        guise = with_sqlalchemy.session_guise(kind, self._engines, owner, loan)
        if guise is None:
            raise _unknown(kind)

        await guise.open()
        return guise


def class_of(kind: Any) -> Any:
    """The class, also of ``AsyncConnection[Any]``."""
    return get_origin(kind) or kind


class _Plain:
    """A connection of the driver, which keeps nothing back."""

    def __init__(self, lent: LentAsyncConnection | LentConnection) -> None:
        self.object = lent

    @property
    def in_use(self) -> bool:
        return self.object.in_use

    async def flush(self) -> None:
        pass

    async def close(self) -> None:
        pass


def _unknown(kind: Any) -> HandlerInvalid:
    return HandlerInvalid(
        f"connection: {getattr(kind, '__qualname__', kind)!r} is not known",
        hint="Ask for psycopg.AsyncConnection or psycopg.Connection, or for AsyncSession or "
        "Session of SQLAlchemy.",
    )
