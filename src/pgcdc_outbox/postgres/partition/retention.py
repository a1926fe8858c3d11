"""Dropping partitions that are old and that no consumer needs any more.

Space is freed by TRUNCATE, under a lock on the one old partition, which no
producer writes to. Taking the empty table away needs a lock on the whole
outbox, so that is a second transaction, and can wait for a later run.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct
from psycopg import Connection, Cursor

from pgcdc_outbox.postgres.blocking import OUT_OF_PATIENCE, Patience, lock_holders
from pgcdc_outbox.postgres.connection import Row
from pgcdc_outbox.postgres.partition.partitions import Partition, read, server_now
from pgcdc_outbox.postgres.partition.table import Table
from pgcdc_outbox.postgres.partition.turn import BESIDE_AUTOVACUUM, Turn, unhurried

_COUNTED: Final = 1000


class Needed(Struct, frozen=True, kw_only=True):
    """What one consumer has not settled of a partition."""

    consumer: str
    why: Literal["unstarted", "rereading", "foreign", "behind"]
    """No checkpoint yet; re-reading the table; a checkpoint of another cluster; just behind."""
    rows: int
    """Counted up to 1000."""
    since: datetime
    """When the oldest of them was written."""
    saved_at: datetime | None
    """When the consumer last saved a checkpoint."""

    def __str__(self) -> str:
        count = f"at least {self.rows}" if self.rows >= _COUNTED else str(self.rows)
        rows = f"{count} row{'' if self.rows == 1 else 's'} since {_minute(self.since)}"
        match self.why:
            case "unstarted":
                return f"consumer {self.consumer} has saved no checkpoint yet ({rows})"
            case "rereading":
                return f"consumer {self.consumer} is re-reading the table ({rows})"
            case "foreign":
                return f"the checkpoint of consumer {self.consumer} is another cluster's ({rows})"
            case "behind":
                saved = "never" if self.saved_at is None else _minute(self.saved_at)
                return f"consumer {self.consumer} has not settled {rows} (last checkpoint {saved})"


class Kept(Struct, frozen=True, kw_only=True):
    """An old partition that is still there."""

    name: str
    reason: str
    rows: int
    """Rows in the way, counted up to 1000."""
    bytes: int
    """What keeping it costs."""
    needed: tuple[Needed, ...] = ()
    """By which consumers."""

    def __str__(self) -> str:
        return f"{self.name} kept ({self.bytes} bytes): {self.reason}"


class Dropping(Struct, frozen=True, kw_only=True):
    """What was dropped, and what was not."""

    dropped: tuple[str, ...] = ()
    kept: tuple[Kept, ...] = ()


class Retention:
    """Keeps partitions for a while, and longer if a consumer has not settled their rows."""

    def __init__(
        self,
        connection: Connection[Row],
        schema: str,
        table: Table,
        *,
        retention: timedelta,
        lock_timeout: timedelta,
        turn: Turn,
    ) -> None:
        self._connection = connection
        self._schema = schema
        self._table = table
        self._retention = retention
        self._lock_timeout = lock_timeout
        self._turn = turn
        self._may_detach = True

    def apply(self) -> Dropping:
        """Empty and drop what is old and settled; also what earlier runs left half done."""
        outcomes = [self._stray(name) for name in self._strays()]
        outcomes += [self._drop(partition) for partition in self._old()]
        return Dropping(
            dropped=tuple(outcome for outcome in outcomes if isinstance(outcome, str)),
            kept=tuple(outcome for outcome in outcomes if isinstance(outcome, Kept)),
        )

    def _old(self) -> Iterable[Partition]:
        limit = server_now(self._connection) - self._retention
        return [
            each
            for each in read(self._connection, self._schema, self._table.name)
            if not each.is_default and each.upper is not None and each.upper < limit
        ]

    def _drop(self, partition: Partition) -> str | Kept:
        self._turn.keep()
        # Once without a lock, so that one is only asked for if it is worth it.
        return (
            self._is_kept(partition)
            or self._empty(partition)
            or self._take_away(partition)
            or partition.name
        )

    def _is_kept(self, partition: Partition) -> Kept | None:
        with unhurried(self._connection):
            return self._why_needed(partition, self._ask)

    def _empty(self, partition: Partition) -> Kept | None:
        """Remove the rows, unless under the lock somebody still needs one."""
        try:
            with unhurried(self._connection):
                # No producer needs this lock.
                waiting = max(self._lock_timeout, BESIDE_AUTOVACUUM)
                ask = self._patient(Patience(self._connection, self._schema, waiting))
                ask("lock_partition", partition=partition.name)
                if kept := self._why_needed(partition, ask):
                    return kept

                ask("truncate_partition", partition=partition.name)
        except OUT_OF_PATIENCE:
            return self._kept(partition, f"in use{self._holders()}")

        return None

    def _take_away(self, partition: Partition) -> Kept | None:
        """Detach and drop an empty partition, or leave that to a later run."""
        waits = "emptied; it is dropped once the outbox can be locked"
        if not self._may_detach:
            return self._kept(partition, waits, bytes=0)

        try:
            with unhurried(self._connection):
                ask = self._patient(Patience(self._connection, self._schema, self._lock_timeout))
                ask("detach_partition", partition=partition.name)
                # A row may have come in between; detaching has locked the table.
                row = ask("has_rows", partition=partition.name).fetchone()
                if row is None or row["present"]:
                    raise _Refilled

                ask("drop_table", partition=partition.name)
        except _Refilled:
            return self._kept(partition, "rows came in late")
        except OUT_OF_PATIENCE:
            # The next one would keep producers waiting as long, for as little.
            self._may_detach = False
            return self._kept(partition, waits + self._holders(), bytes=0)

        return None

    def _why_needed(self, partition: Partition, ask: "_Ask") -> Kept | None:
        if not self._table.is_settled:
            return None

        consumers = ask("any_consumer").fetchone()
        if consumers is None or not consumers["present"]:
            row = ask("has_rows", partition=partition.name).fetchone()
            if row is None or row["present"]:
                return self._kept(
                    partition, "no consumer is registered", rows=max(1, partition.estimate)
                )

            return None

        rows = ask("unsettled_by_consumer", partition=partition.name, limit=_COUNTED).fetchall()
        if not rows:
            return None

        needed = msgspec.convert(rows, tuple[Needed, ...])
        return Kept(
            name=partition.name,
            reason="; ".join(map(str, needed)),
            rows=max(each.rows for each in needed),
            bytes=partition.bytes,
            needed=needed,
        )

    def _ask(self, name: str, /, **parameters: Any) -> Cursor[Row]:
        return self._table.run(self._connection, name, self._schema, **parameters)

    def _patient(self, patience: Patience) -> "_Ask":
        return partial(self._table.patiently, patience)

    def _strays(self) -> list[str]:
        rows = self._ask(
            "stray_tables", schema=self._schema, parent_name=self._table.name
        ).fetchall()
        return [row["name"] for row in rows]

    def _stray(self, name: str) -> str | Kept:
        """Drop a table that is no partition, if it is empty: a person may have kept the rest."""
        self._turn.keep()
        try:
            with unhurried(self._connection):
                ask = self._patient(Patience(self._connection, self._schema, self._lock_timeout))
                ask("lock_partition", partition=name)
                row = ask("has_rows", partition=name).fetchone()
                if row is not None and not row["present"]:
                    ask("drop_table", partition=name)
                    return name
        except OUT_OF_PATIENCE:
            reason = f"in use{self._holders()}"
        else:
            reason = "not attached to the outbox, but it holds rows"

        return Kept(name=name, reason=reason, rows=0, bytes=0)

    def _kept(
        self, partition: Partition, reason: str, *, rows: int = 0, bytes: int | None = None
    ) -> Kept:
        size = partition.bytes if bytes is None else bytes
        return Kept(name=partition.name, reason=reason, rows=rows, bytes=size)

    def _holders(self) -> str:
        holders = lock_holders(self._connection, self._schema, self._lock_timeout)
        return f",{holders}" if holders else ""


class _Refilled(Exception):
    """Rows came into a partition that was empty."""


_Ask = Callable[..., Cursor[Row]]


def _minute(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%MZ}"
