"""Making partitions before they are needed, and for rows that came without one."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from msgspec import Struct
from psycopg import Connection

from pgcdc_outbox.postgres.blocking import OUT_OF_PATIENCE, Patience, lock_holders
from pgcdc_outbox.postgres.connection import Row, quoted, run
from pgcdc_outbox.postgres.partitions import (
    ORIGIN,
    Bounds,
    missing,
    read,
    root,
    server_now,
)

# Rows with clocks gone wild could ask for a partition each: the rest waits for the next run.
_MOST_BINS: Final = 100


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
        """Make what is missing. A partition that cannot be had in time ends it for now."""
        existing = read(self._connection, self._schema)
        default = next((each.name for each in existing if each.is_default), None)
        stranded = self._stranded(default)
        plan = missing(
            existing,
            now=server_now(self._connection),
            interval=self._interval,
            ahead=self._ahead,
            stranded=stranded,
        )
        created: list[str] = []
        moved = 0
        for bounds in plan:
            if self._is_taken(bounds.name):
                return Making(
                    created=tuple(created),
                    moved=moved,
                    delayed=(f"{bounds.name}: another table has this name",),
                )

            try:
                moved += self._make(bounds, default, rows_wait=self._holds(bounds, stranded))
            except OUT_OF_PATIENCE:
                # The next one would keep producers waiting as long, for as little.
                return Making(
                    created=tuple(created), moved=moved, delayed=(self._why_delayed(bounds),)
                )

            created.append(bounds.name)

        return Making(created=tuple(created), moved=moved)

    def _make(self, bounds: Bounds, default: str | None, *, rows_wait: bool) -> int:
        connection, schema = self._connection, self._schema
        name = bounds.name
        edges: dict[str, Any] = {"lower": bounds.lower, "upper": bounds.upper}
        moved = 0
        with connection.transaction():
            run(connection, "create_partition", schema, partition=name, **edges)
            self._give(name)
            if rows_wait:
                # Before any lock, however many there are: producers go on meanwhile.
                moved += run(connection, "move_rows", schema, partition=name, **edges).rowcount

            patience = Patience(connection, schema, self._lock_timeout)
            # The root first, as everybody locks it before its partitions.
            patience.run("lock_root_for_attaching")
            if default is not None:
                patience.run("lock_partition", partition=default)
                moved += patience.run("move_rows", partition=name, **edges).rowcount

            patience.run("attach_partition", partition=name, **edges)
            patience.run("drop_bounds_check", partition=name)

        return moved

    def _stranded(self, default: str | None) -> list[datetime]:
        if default is None:
            return []

        rows = run(
            self._connection,
            "default_bins",
            self._schema,
            partition=default,
            interval=self._interval,
            origin=ORIGIN,
            limit=_MOST_BINS,
        ).fetchall()
        return [row["lower"].replace(tzinfo=UTC) for row in rows]

    def _holds(self, bounds: Bounds, stranded: Sequence[datetime]) -> bool:
        return any(
            lower < bounds.upper and bounds.lower < lower + self._interval for lower in stranded
        )

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

    def _why_delayed(self, bounds: Bounds) -> str:
        holders = lock_holders(self._connection, self._schema, self._lock_timeout)
        cause = f"a lock{holders}" if holders else "a lock, or DEFAULT is too large to check"
        seconds = self._lock_timeout.total_seconds()
        return f"{bounds.name}: not made within {seconds:g} s, waiting for {cause}"

    def _spelled(self, name: str) -> str:
        return f"{quoted(self._schema)}.{quoted(name)}"
