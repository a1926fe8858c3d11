"""Making one partition, beside producers who go on."""

from datetime import timedelta
from functools import partial
from typing import Any, Final

from psycopg import Connection, Cursor

from pgcdc_outbox.postgres.blocking import Patience, limit_waiting
from pgcdc_outbox.postgres.connection import Row, quoted
from pgcdc_outbox.postgres.partition.partitions import Bounds, Partition, root
from pgcdc_outbox.postgres.partition.table import Table
from pgcdc_outbox.postgres.partition.turn import BESIDE_AUTOVACUUM, unhurried
from pgcdc_outbox.postgres.partition.view import Era, View, look

# How long moving may take when no producer goes to DEFAULT.
_LEISURE: Final = timedelta(minutes=1)

# Before this version a reader of the log that saw rows come to a table which is not
# published would never look again whether it is.
_REMEMBERS_NO_MORE: Final = 15_00_00


class Maker:
    """Makes a partition, and moves to it what DEFAULT has of its rows."""

    def __init__(
        self, connection: Connection[Row], schema: str, table: Table, lock_timeout: timedelta
    ) -> None:
        self._connection = connection
        self._schema = schema
        self._table = table
        self._lock_timeout = lock_timeout
        self._leisure = max(_LEISURE, lock_timeout)

    def make(self, bounds: Bounds, era: Era, default: Partition | None) -> int:
        """Make it, and return how many rows were moved; or make nothing, and raise.

        Raises what the driver does: one of `OUT_OF_PATIENCE` if a lock, or the work under
        it, took too long, and ``CheckViolation`` if rows of its time came to DEFAULT meanwhile.
        """
        name = self._table.partition(bounds)
        edges: dict[str, Any] = {
            "partition": name,
            "lower": bounds.lower,
            "upper": bounds.upper,
        }
        with unhurried(self._connection):
            moved = self._prepare(edges, era)
            run = partial(self._table.patiently, self._patience(era))
            # The root first, as everybody locks it before its partitions.
            run("stop_producers" if era is Era.NOW else "lock_root_for_attaching")
            if default is not None:
                run("lock_partition", partition=default.name)

            # Once more, for what was not committed then. Nobody writes what is ahead.
            if default is not None and era is not Era.AHEAD:
                moved += run("move_rows", **edges).rowcount

            run("attach_partition", **edges)
            run("drop_bounds_check", partition=name)
            if moved and self._table.is_published and self._forgets():
                run("make_readers_forget")

        return moved

    def may_take_its_time(self, view: View) -> bool:
        """Whether no row of now, or of as long as moving may take, goes to DEFAULT."""
        return view.is_default_unused(during=self._leisure)

    def is_taken(self, name: str) -> bool:
        """Whether there is a table of this name."""
        row = self._run("table_present", table=self._spelled(name)).fetchone()
        return row is not None and bool(row["present"])

    def _forgets(self) -> bool:
        return self._connection.info.server_version < _REMEMBERS_NO_MORE

    def _prepare(self, edges: dict[str, Any], era: Era) -> int:
        """Make a table beside the others, and move to it what can be moved without a lock."""
        # Also for who was killed half way, and still makes this very partition.
        limit_waiting(self._connection, self._lock_timeout)
        self._run("create_partition", **edges)
        self._give(edges["partition"])
        if era is Era.NOW:
            return 0

        # Before any lock, however many there are: producers go on meanwhile. And
        # what has been read once is read faster under the lock.
        return self._run("move_rows", **edges).rowcount

    def _patience(self, era: Era) -> Patience:
        # Moving may have taken long, so whether DEFAULT is in use is asked anew.
        if era is Era.NOW or not self.may_take_its_time(self._look()):
            return Patience(self._connection, self._schema, self._lock_timeout)

        waiting = max(self._lock_timeout, BESIDE_AUTOVACUUM)
        return Patience(self._connection, self._schema, self._leisure, lock_timeout=waiting)

    def _look(self) -> View:
        return look(
            self._connection, self._schema, self._table.name, lock_timeout=self._lock_timeout
        )

    def _run(self, name: str, /, **parameters: Any) -> Cursor[Row]:
        return self._table.run(self._connection, name, self._schema, **parameters)

    def _give(self, name: str) -> None:
        """Give it to the owner of the root."""
        for row in self._run(
            "give_partition",
            table=self._spelled(name),
            root=root(self._schema, self._table.name),
        ).fetchall():
            self._connection.execute(row["statement"].encode())

    def _spelled(self, name: str) -> str:
        return f"{quoted(self._schema)}.{quoted(name)}"
