"""Where the units of a consumer come from."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from pgcdc_outbox.postgres.effects.desk import Desk
from pgcdc_outbox.postgres.effects.unit import PostgresUnit


class PostgresUnits:
    """Opens a unit for each call."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    @asynccontextmanager
    async def open(self, *, epoch: int) -> AsyncIterator[PostgresUnit]:
        """A unit for one call; what was not committed at the end is rolled back."""
        unit = PostgresUnit(self._desk, epoch=epoch)
        try:
            yield unit
        finally:
            with anyio.CancelScope(shield=True):
                await unit.close()
