"""Making partitions before they are needed, and for rows that came without one."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, timedelta
from typing import Final

from msgspec import Struct
from psycopg import Connection, errors

from pgcdc_outbox.postgres.blocking import OUT_OF_PATIENCE, lock_holders
from pgcdc_outbox.postgres.connection import Row
from pgcdc_outbox.postgres.partition.maker import Maker
from pgcdc_outbox.postgres.partition.partitions import (
    ORIGIN,
    SHORTEST,
    Bounds,
    align,
    gaps,
    missing,
)
from pgcdc_outbox.postgres.partition.table import Table
from pgcdc_outbox.postgres.partition.turn import Turn, unhurried
from pgcdc_outbox.postgres.partition.view import Era, View, look

# What DEFAULT holds is moved a day at a time, so that no transaction is too long,
# and so many days in one run: the rest waits for the next.
_BITE: Final = timedelta(days=1)
_MOST_BITES: Final = 100

# What can be moved in the time that producers may be kept waiting.
_QUICK_BYTES: Final = 64 * 1024 * 1024


class Making(Struct, frozen=True, kw_only=True):
    """What was made."""

    created: tuple[str, ...] = ()
    moved: int = 0
    delayed: tuple[str, ...] = ()
    """Why something was not made."""


class LookAhead:
    """Keeps partitions ahead of the clock of the server. Used for one run."""

    def __init__(
        self,
        connection: Connection[Row],
        schema: str,
        table: Table,
        *,
        interval: timedelta,
        ahead: int,
        lock_timeout: timedelta,
        turn: Turn,
    ) -> None:
        self._connection = connection
        self._schema = schema
        self._table = table
        self._interval = interval
        self._ahead = ahead
        self._lock_timeout = lock_timeout
        self._maker = Maker(connection, schema, table, lock_timeout)
        self._turn = turn
        self._created: list[str] = []
        self._moved = 0
        self._delayed: dict[str, str] = {}
        self._out_of_patience = False

    def make(self) -> Making:
        """Make what is missing; what cannot be had in time is for a later run."""
        self._keep_up()
        for day in self._days_of_default():
            # Again, because moving takes time: the run must not fall behind the clock.
            self._keep_up()
            view = self._look()
            if self._out_of_patience or self._has_to_wait(view):
                break

            for bounds in gaps(day, view.existing):
                self._attempt(bounds)

        if self._moved:
            self._vacuum()

        return Making(
            created=tuple(sorted(self._created)),
            moved=self._moved,
            delayed=tuple(f"{name}: {why}" for name, why in self._delayed.items()),
        )

    def _keep_up(self) -> None:
        view = self._look()
        plan = missing(view.existing, now=view.now, interval=self._interval, ahead=self._ahead)
        eras = ((view.era(bounds), bounds) for bounds in plan)
        # What is ahead first: it matters most, and costs nobody anything. What is past
        # by now, between other partitions, is only needed for rows that are in DEFAULT.
        for era, bounds in sorted(eras):
            if era is not Era.PAST:
                self._attempt(bounds)

    def _attempt(self, bounds: Bounds) -> None:
        """Make one partition, unless this run has found already that it cannot."""
        name = self._table.partition(bounds)
        if self._out_of_patience or name in self._delayed:
            return

        view = self._look()
        era = view.era(bounds)
        if self._maker.is_taken(name):
            self._delayed[name] = "another table has this name"
            return

        if era is Era.NOW and view.default_bytes > _QUICK_BYTES:
            self._divide(bounds, view)
            return

        self._turn.keep()
        try:
            self._moved += self._maker.make(bounds, era, view.default)
        except OUT_OF_PATIENCE:
            self._note_patience(bounds, era, view)
        except errors.CheckViolation:
            # But for somebody whose clock is wrong.
            self._delayed[name] = "rows of that time came to DEFAULT meanwhile"
        else:
            self._created.append(name)

    def _divide(self, bounds: Bounds, view: View) -> None:
        """Make what of the present begins in a while, which needs no row moved under a lock."""
        cut = min(align(view.now + view.margin + SHORTEST, SHORTEST), bounds.upper)
        self._delayed[self._table.partition(bounds)] = (
            "DEFAULT holds too much to move while producers wait; "
            f"its rows are moved after {cut:%Y-%m-%d %H:%MZ}, when new ones go elsewhere"
        )
        if cut < bounds.upper:
            self._attempt(Bounds(cut, bounds.upper))

    def _has_to_wait(self, view: View) -> bool:
        """Whether moving rows would take too long with producers who need DEFAULT."""
        if view.default is None or view.default.bytes <= _QUICK_BYTES:
            return False

        if self._maker.may_take_its_time(view):
            return False

        self._delayed[view.default.name] = (
            f"in use, and large ({view.default.bytes} bytes); "
            "its rows are moved once new ones go elsewhere"
        )
        return True

    def _note_patience(self, bounds: Bounds, era: Era, view: View) -> None:
        seconds = self._lock_timeout.total_seconds()
        if holders := lock_holders(self._connection, self._schema, self._lock_timeout):
            why = f"waiting for a lock{holders}"
        elif era is Era.NOW:
            # Nobody was in the way: it was the rows. So without them, then.
            self._divide(bounds, view)
            return
        else:
            why = (
                "waiting for a lock, or DEFAULT is too large to check "
                f"({view.default_bytes} bytes): run it once with a longer lock_timeout"
            )

        # The next one would keep producers waiting as long, for as little.
        self._out_of_patience = True
        name = self._table.partition(bounds)
        self._delayed[name] = f"not made within {seconds:g} s, {why}"

    def _days_of_default(self) -> Iterator[Bounds]:
        """What the rows of DEFAULT need, a day each, no wider than a partition has to be."""
        default = self._look().default
        if default is None:
            return

        with unhurried(self._connection):
            rows = self._table.run(
                self._connection,
                "default_days",
                self._schema,
                partition=default.name,
                origin=ORIGIN,
                limit=_MOST_BITES,
            ).fetchall()

        step = min(self._interval, _BITE)
        for row in rows:
            first, last = row["first"].replace(tzinfo=UTC), row["last"].replace(tzinfo=UTC)
            day = align(first, _BITE)
            yield Bounds(max(align(first, step), day), min(align(last, step) + step, day + _BITE))

    def _vacuum(self) -> None:
        default = self._look().default
        if default is None:
            return

        # Should a limit of the role's end it, autovacuum will do it.
        with suppress(*OUT_OF_PATIENCE):
            self._table.run(
                self._connection, "vacuum_partition", self._schema, partition=default.name
            )

    def _look(self) -> View:
        return look(
            self._connection, self._schema, self._table.name, lock_timeout=self._lock_timeout
        )
