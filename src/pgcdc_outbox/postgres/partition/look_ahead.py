"""Making partitions before they are needed, and for rows that came without one."""

from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Any, Final

from msgspec import Struct
from psycopg import Connection

from pgcdc_outbox.postgres.blocking import OUT_OF_PATIENCE, Patience, lock_holders
from pgcdc_outbox.postgres.connection import Row, quoted, run
from pgcdc_outbox.postgres.partition.partitions import (
    ORIGIN,
    Bounds,
    Partition,
    missing,
    read,
    root,
    server_now,
)

# Rows with clocks gone wild could ask for a partition each: the rest waits for the next run.
_MOST_BINS: Final = 100

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
    """Keeps partitions ahead of the clock of the server."""

    def __init__(
        self,
        connection: Connection[Row],
        schema: str,
        *,
        interval: timedelta,
        ahead: int,
        lock_timeout: timedelta,
    ) -> None:
        self._connection = connection
        self._schema = schema
        self._interval = interval
        self._ahead = ahead
        self._lock_timeout = lock_timeout

    def make(self) -> Making:
        """Make what is missing; what cannot be had in time is for a later run."""
        now = server_now(self._connection)
        existing = read(self._connection, self._schema)
        default = next((each for each in existing if each.is_default), None)
        plan = missing(
            existing,
            now=now,
            interval=self._interval,
            ahead=self._ahead,
            stranded=self._stranded(default),
        )
        covered = any(_covers(partition, now) for partition in existing)
        created: list[str] = []
        delayed: list[str] = []
        moved = 0
        # What is ahead first: it matters most, and costs nobody anything.
        for era, bounds in sorted((_era(bounds, now), bounds) for bounds in plan):
            if why := self._why_not(bounds, era, default, covered=covered):
                delayed.append(f"{bounds.name}: {why}")
                continue

            try:
                moved += self._make(bounds, era, default, covered=covered)
            except OUT_OF_PATIENCE:
                # The next one would keep producers waiting as long, for as little.
                delayed.append(self._out_of_patience(bounds))
                break

            created.append(bounds.name)
            covered = covered or era is _Era.NOW

        return Making(created=tuple(sorted(created)), moved=moved, delayed=tuple(delayed))

    def _make(
        self, bounds: Bounds, era: "_Era", default: Partition | None, *, covered: bool
    ) -> int:
        connection, schema = self._connection, self._schema
        name = bounds.name
        edges: dict[str, Any] = {"lower": bounds.lower, "upper": bounds.upper}
        moved = 0
        with connection.transaction():
            run(connection, "create_partition", schema, partition=name, **edges)
            self._give(name)
            if era is _Era.PAST:
                # Before any lock, however many there are: producers go on meanwhile.
                moved += run(connection, "move_rows", schema, partition=name, **edges).rowcount

            patience = Patience(
                connection,
                schema,
                _LEISURE if covered and era is not _Era.NOW else self._lock_timeout,
                lock_timeout=self._lock_timeout,
            )
            # The root first, as everybody locks it before its partitions.
            patience.run("stop_producers" if era is _Era.NOW else "lock_root_for_attaching")
            if default is not None:
                patience.run("lock_partition", partition=default.name)
                moved += patience.run("move_rows", partition=name, **edges).rowcount

            patience.run("attach_partition", partition=name, **edges)
            patience.run("drop_bounds_check", partition=name)
            if moved and connection.info.server_version < _REMEMBERS_NO_MORE:
                patience.run("make_readers_forget")

        return moved

    def _why_not(
        self, bounds: Bounds, era: "_Era", default: Partition | None, *, covered: bool
    ) -> str:
        """Why it is not even tried; empty if it is."""
        if self._is_taken(bounds.name):
            return "another table has this name"

        if era is _Era.AHEAD or default is None or default.bytes <= _QUICK_BYTES:
            return ""

        if era is _Era.NOW:
            return "DEFAULT holds too much to move now; its rows move when their time is over"

        return "" if covered else "DEFAULT is in use and large; its rows move once it is not"

    def _stranded(self, default: Partition | None) -> list[datetime]:
        if default is None:
            return []

        rows = run(
            self._connection,
            "default_bins",
            self._schema,
            partition=default.name,
            interval=self._interval,
            origin=ORIGIN,
            limit=_MOST_BINS,
        ).fetchall()
        return [row["lower"].replace(tzinfo=UTC) for row in rows]

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

    def _out_of_patience(self, bounds: Bounds) -> str:
        holders = lock_holders(self._connection, self._schema, self._lock_timeout)
        cause = f"a lock{holders}" if holders else "a lock, or DEFAULT is too large to check"
        seconds = self._lock_timeout.total_seconds()
        return f"{bounds.name}: not made within {seconds:g} s, waiting for {cause}"

    def _spelled(self, name: str) -> str:
        return f"{quoted(self._schema)}.{quoted(name)}"


class _Era(IntEnum):
    """Where bounds lie, seen from now; in the order in which they are made."""

    AHEAD = 0
    NOW = 1
    PAST = 2


def _era(bounds: Bounds, now: datetime) -> _Era:
    if bounds.lower > now + _MARGIN:
        return _Era.AHEAD

    return _Era.PAST if bounds.upper < now - _MARGIN else _Era.NOW


def _covers(partition: Partition, now: datetime) -> bool:
    """Whether the rows of now, for a while, go to this partition rather than to DEFAULT."""
    if partition.is_default:
        return False

    return (partition.lower is None or partition.lower <= now) and (
        partition.upper is None or now + _LEISURE + _MARGIN < partition.upper
    )
