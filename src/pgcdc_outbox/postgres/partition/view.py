"""What there is at one moment, and where bounds lie, seen from then."""

from datetime import datetime, timedelta
from enum import IntEnum
from typing import Final

from msgspec import Struct
from psycopg import Connection

from pgcdc_outbox.postgres.connection import Row
from pgcdc_outbox.postgres.partition.partitions import (
    Bounds,
    Partition,
    covered,
    read,
    server_now,
)

# A row that is on its way to DEFAULT while its own partition appears is refused by the
# server. So wherever rows of now may go, producers have to be stopped before they are
# routed; and what was routed a moment ago, or will be in a moment, counts as now.
_MARGIN: Final = timedelta(minutes=1)


class Era(IntEnum):
    """Where bounds lie, seen from now; in the order in which they are made."""

    AHEAD = 0
    NOW = 1
    PAST = 2


class View(Struct, frozen=True, kw_only=True):
    """The partitions, and the time of the server."""

    now: datetime
    margin: timedelta
    """How far from `now` what counts as now may be."""
    existing: list[Partition]
    default: Partition | None

    @property
    def default_bytes(self) -> int:
        """How large DEFAULT is; 0 without one."""
        return 0 if self.default is None else self.default.bytes

    def era(self, bounds: Bounds) -> Era:
        """Where bounds lie."""
        if bounds.lower > self.now + self.margin:
            return Era.AHEAD

        return Era.PAST if bounds.upper < self.now - self.margin else Era.NOW

    def is_default_unused(self, *, during: timedelta) -> bool:
        """Whether no row of now, or of a while, goes to DEFAULT."""
        until = self.now + during + self.margin
        return covered(self.existing, since=self.now - self.margin, until=until)


def look(connection: Connection[Row], schema: str, table: str, *, lock_timeout: timedelta) -> View:
    """Look at the partitions of a table and at the clock of the server."""
    existing = read(connection, schema, table)
    default = next((each for each in existing if each.is_default), None)
    return View(
        now=server_now(connection),
        # A lock may be waited for after the clock was read.
        margin=_MARGIN + lock_timeout,
        existing=existing,
        default=default,
    )
