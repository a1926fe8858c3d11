"""What every handle can do: insert rows that were checked before."""

from collections.abc import Sequence
from typing import Protocol

from pgcdc_outbox.postgres.producer.enqueue import Row


class Handle(Protocol):
    """Somewhere to insert rows. Whose transaction it is decides when they commit."""

    def insert(self, row: Row) -> int:
        """Insert one row; its id."""
        ...

    def insert_many(self, rows: Sequence[Row]) -> list[int]:
        """Insert some rows, at least one; their ids, in the same order."""
        ...


class AsyncHandle(Protocol):
    """The same, awaited."""

    async def insert(self, row: Row) -> int:
        """Insert one row; its id."""
        ...

    async def insert_many(self, rows: Sequence[Row]) -> list[int]:
        """Insert some rows, at least one; their ids, in the same order."""
        ...
