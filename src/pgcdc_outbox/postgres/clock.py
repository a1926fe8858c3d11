"""The clock of the server, known here without asking each time."""

import time
from typing import Final

from pgcdc_outbox.core.server_time import Reading, ServerTime
from pgcdc_outbox.errors import OutboxError
from pgcdc_outbox.postgres.session import Session
from pgcdc_outbox.postgres.sqlstate import ledger_error
from pgcdc_outbox.postgres.statements import Params, Row

_ASKED: Final = "select (extract(epoch from clock_timestamp()) * 1000000)::bigint"
_DOING: Final = "ask what time it is"

# It goes on while the machine sleeps, where there is such a clock.
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SessionClock:
    """Learns from statements that are sent anyway, and asks when they are too long ago."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._time = ServerTime()

    async def now_us(self) -> int:
        """Microseconds since 1970, never behind the server.

        If it has to ask, raises `LedgerUnavailable` when trying again may help, and
        other `OutboxError` when it will not.
        """
        if not self._time.is_known(_local()):
            try:
                await self.row(_ASKED, doing=_DOING)
            except OutboxError as error:
                raise ledger_error(error) from error

        return self._time.at(_local())

    async def row(self, statement: str, params: Params = None, *, doing: str) -> Row:
        """Run a statement whose one row ends with the server's clock; what comes before it."""
        before = _local()
        *rest, server_us = await self._session.row(statement, params, doing=doing)
        self._time.learn(Reading(before, _local(), server_us))
        return tuple(rest)


def _local() -> float:
    return time.clock_gettime(_CLOCK)
