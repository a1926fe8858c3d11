"""Making partitions before they are needed, and for rows that came without one."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Any, Final

from msgspec import Struct
from psycopg import Connection, errors

from pgcdc_outbox.postgres.blocking import OUT_OF_PATIENCE, Patience, limit_waiting, lock_holders
from pgcdc_outbox.postgres.connection import Row, quoted, run
from pgcdc_outbox.postgres.partition.partitions import (
    ORIGIN,
    SHORTEST,
    Bounds,
    Partition,
    align,
    covered,
    gaps,
    missing,
    read,
    root,
    server_now,
)
from pgcdc_outbox.postgres.partition.turn import BESIDE_AUTOVACUUM, Turn, unhurried

# What DEFAULT holds is moved a day at a time, so that no transaction is too long,
# and so many days in one run: the rest waits for the next.
_BITE: Final = timedelta(days=1)
_MOST_BITES: Final = 100

# A row that is on its way to DEFAULT while its own partition appears is refused by the
# server. So wherever rows of now may go, producers have to be stopped before they are
# routed; and what was routed a moment ago, or will be in a moment, counts as now.
_MARGIN: Final = timedelta(minutes=1)

# What can be moved in the time that producers may be kept waiting; and how long it may
# take when none of them goes to DEFAULT.
_QUICK_BYTES: Final = 64 * 1024 * 1024
_LEISURE: Final = timedelta(minutes=1)

# Before this version a reader of the log that saw rows come to a table which is not
# published would never look again whether it is.
_REMEMBERS_NO_MORE: Final = 15_00_00


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
        *,
        interval: timedelta,
        ahead: int,
        lock_timeout: timedelta,
        turn: Turn,
    ) -> None:
        self._connection = connection
        self._schema = schema
        self._interval = interval
        self._ahead = ahead
        self._lock_timeout = lock_timeout
        self._leisure = max(_LEISURE, lock_timeout)
        # A lock may have been waited for since the clock was read.
        self._margin = _MARGIN + lock_timeout
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
        eras = ((self._era(bounds, view.now), bounds) for bounds in plan)
        # What is ahead first: it matters most, and costs nobody anything. What is past
        # by now, between other partitions, is only needed for rows that are in DEFAULT.
        for era, bounds in sorted(eras):
            if era is not _Era.PAST:
                self._attempt(bounds)

    def _attempt(self, bounds: Bounds) -> None:
        """Make one partition, unless this run has found already that it cannot."""
        if self._out_of_patience or bounds.name in self._delayed:
            return

        view = self._look()
        era = self._era(bounds, view.now)
        if self._is_taken(bounds.name):
            self._delayed[bounds.name] = "another table has this name"
            return

        if era is _Era.NOW and view.default_bytes > _QUICK_BYTES:
            self._divide(bounds, view.now)
            return

        self._turn.keep()
        try:
            self._moved += self._make(bounds, era, view)
        except OUT_OF_PATIENCE:
            self._note_patience(bounds, era, view)
        except errors.CheckViolation:
            # But for somebody whose clock is wrong.
            self._delayed[bounds.name] = "rows of that time came to DEFAULT meanwhile"
        else:
            self._created.append(bounds.name)

    def _divide(self, bounds: Bounds, now: datetime) -> None:
        """Make what of the present begins in a while, which needs no row moved under a lock."""
        cut = min(align(now + self._margin + SHORTEST, SHORTEST), bounds.upper)
        self._delayed[bounds.name] = (
            "DEFAULT holds too much to move while producers wait; "
            f"its rows are moved after {cut:%Y-%m-%d %H:%MZ}, when new ones go elsewhere"
        )
        if cut < bounds.upper:
            self._attempt(Bounds(cut, bounds.upper))

    def _make(self, bounds: Bounds, era: "_Era", view: "_View") -> int:
        connection, schema = self._connection, self._schema
        name = bounds.name
        edges: dict[str, Any] = {"lower": bounds.lower, "upper": bounds.upper}
        moved = 0
        with unhurried(connection):
            # Also for who was killed half way, and still makes this very partition.
            limit_waiting(connection, self._lock_timeout)
            run(connection, "create_partition", schema, partition=name, **edges)
            self._give(name)
            if era is not _Era.NOW:
                # Before any lock, however many there are: producers go on meanwhile. And
                # what has been read once is read faster under the lock.
                moved += run(connection, "move_rows", schema, partition=name, **edges).rowcount

            patience = self._patience(era)
            # The root first, as everybody locks it before its partitions.
            patience.run("stop_producers" if era is _Era.NOW else "lock_root_for_attaching")
            if view.default is not None:
                patience.run("lock_partition", partition=view.default.name)

            # Once more, for what was not committed then. Nobody writes what is ahead.
            if view.default is not None and era is not _Era.AHEAD:
                moved += patience.run("move_rows", partition=name, **edges).rowcount

            patience.run("attach_partition", partition=name, **edges)
            patience.run("drop_bounds_check", partition=name)
            if moved and connection.info.server_version < _REMEMBERS_NO_MORE:
                patience.run("make_readers_forget")

        return moved

    def _patience(self, era: "_Era") -> Patience:
        # Moving may have taken long, so whether DEFAULT is in use is asked anew.
        if era is _Era.NOW or not self._is_out_of_use(self._look()):
            return Patience(self._connection, self._schema, self._lock_timeout)

        waiting = max(self._lock_timeout, BESIDE_AUTOVACUUM)
        return Patience(self._connection, self._schema, self._leisure, lock_timeout=waiting)

    def _has_to_wait(self, view: "_View") -> bool:
        """Whether moving rows would take too long with producers who need DEFAULT."""
        if view.default is None or view.default.bytes <= _QUICK_BYTES or self._is_out_of_use(view):
            return False

        self._delayed[view.default.name] = (
            f"in use, and large ({view.default.bytes} bytes); "
            "its rows are moved once new ones go elsewhere"
        )
        return True

    def _note_patience(self, bounds: Bounds, era: "_Era", view: "_View") -> None:
        seconds = self._lock_timeout.total_seconds()
        if holders := lock_holders(self._connection, self._schema, self._lock_timeout):
            why = f"waiting for a lock{holders}"
        elif era is _Era.NOW:
            # Nobody was in the way: it was the rows. So without them, then.
            self._divide(bounds, view.now)
            return
        else:
            why = (
                "waiting for a lock, or DEFAULT is too large to check "
                f"({view.default_bytes} bytes): run it once with a longer lock_timeout"
            )

        # The next one would keep producers waiting as long, for as little.
        self._out_of_patience = True
        self._delayed[bounds.name] = f"not made within {seconds:g} s, {why}"

    def _days_of_default(self) -> Iterator[Bounds]:
        """What the rows of DEFAULT need, a day each, no wider than a partition has to be."""
        default = self._look().default
        if default is None:
            return

        with unhurried(self._connection):
            rows = run(
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
            run(self._connection, "vacuum_partition", self._schema, partition=default.name)

    def _look(self) -> "_View":
        existing = read(self._connection, self._schema)
        default = next((each for each in existing if each.is_default), None)
        return _View(now=server_now(self._connection), existing=existing, default=default)

    def _era(self, bounds: Bounds, now: datetime) -> "_Era":
        if bounds.lower > now + self._margin:
            return _Era.AHEAD

        return _Era.PAST if bounds.upper < now - self._margin else _Era.NOW

    def _is_out_of_use(self, view: "_View") -> bool:
        """Whether no row of now, or of a while, goes to DEFAULT."""
        until = view.now + self._leisure + self._margin
        return covered(view.existing, since=view.now - self._margin, until=until)

    def _is_taken(self, name: str) -> bool:
        row = run(self._connection, "table_present", "", table=self._spelled(name)).fetchone()
        return row is not None and bool(row["present"])

    def _give(self, name: str) -> None:
        for row in run(
            self._connection,
            "give_partition",
            "",
            table=self._spelled(name),
            root=root(self._schema),
        ).fetchall():
            self._connection.execute(row["statement"].encode())

    def _spelled(self, name: str) -> str:
        return f"{quoted(self._schema)}.{quoted(name)}"


class _View(Struct, frozen=True, kw_only=True):
    """What there is, at one moment."""

    now: datetime
    existing: list[Partition]
    default: Partition | None

    @property
    def default_bytes(self) -> int:
        return 0 if self.default is None else self.default.bytes


class _Era(IntEnum):
    """Where bounds lie, seen from now; in the order in which they are made."""

    AHEAD = 0
    NOW = 1
    PAST = 2
