"""Partitions of the outbox: which there are, and which there should be.

Bounds are aligned in UTC to the length of the interval, so a day begins at
midnight UTC whatever the time zone does. No clock is read here: the server's
is the only one that counts, because it writes ``created_at``.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from msgspec import Struct
from psycopg import Connection

from pgcdc_outbox.errors import SettingsError
from pgcdc_outbox.postgres.connection import Row, quoted, run

ORIGIN: Final = datetime(2001, 1, 1, tzinfo=UTC)
"""A Monday, so that weeks begin on one."""

SHORTEST: Final = timedelta(minutes=15)
LONGEST: Final = timedelta(days=31)


class Bounds(Struct, frozen=True, order=True):
    """From ``lower`` up to but not including ``upper``."""

    lower: datetime
    upper: datetime


class Partition(Struct, frozen=True, kw_only=True):
    """A partition as the server has it."""

    name: str
    lower: datetime | None
    """None for no bound."""
    upper: datetime | None
    is_default: bool
    bytes: int
    estimate: int
    """Rows, as of the last ANALYZE."""


def read(connection: Connection[Row], schema: str, table: str = "immediate") -> list[Partition]:
    """Every partition of a table, in order."""
    rows = run(connection, "partition_bounds", schema, root=root(schema, table)).fetchall()
    return [
        Partition(
            name=row["name"],
            lower=_utc(row["lower"]),
            upper=_utc(row["upper"]),
            is_default=row["is_default"],
            bytes=row["bytes"],
            estimate=row["estimate"],
        )
        for row in rows
    ]


def server_now(connection: Connection[Row]) -> datetime:
    """What time it is for the server."""
    row = run(connection, "server_now", "").fetchone()
    assert row is not None
    now: datetime = row["now"]
    return now.replace(tzinfo=UTC)


def root(schema: str, table: str = "immediate") -> str:
    """The partitioned table, as SQL spells it."""
    return f"{quoted(schema)}.{quoted(table)}"


def check_interval(interval: timedelta) -> timedelta:
    """Raise `SettingsError` for an interval that no partition can have."""
    if not SHORTEST <= interval <= LONGEST or interval % timedelta(minutes=1):
        raise SettingsError(
            f"interval: {interval} is not a number of whole minutes "
            f"from {SHORTEST.seconds // 60} minutes to {LONGEST.days} days"
        )

    return interval


def align(moment: datetime, interval: timedelta) -> datetime:
    """The beginning of the interval that the moment is in."""
    return moment - (moment - ORIGIN) % interval


def missing(
    existing: Sequence[Partition], *, now: datetime, interval: timedelta, ahead: int
) -> list[Bounds]:
    """The partitions to make: for now, and for ``ahead`` intervals more.

    What a partition covers already, be it of another interval, is left out.
    """
    first = align(now, interval)
    return [
        gap
        for count in range(ahead + 1)
        for gap in gaps(Bounds(first + count * interval, first + (count + 1) * interval), existing)
    ]


def gaps(wanted: Bounds, existing: Sequence[Partition]) -> Iterator[Bounds]:
    """What is left of the bounds without the partitions that there are."""
    lower = wanted.lower
    for partition in _in_order(existing):
        if partition.upper is not None and partition.upper <= lower:
            continue

        if partition.lower is not None and partition.lower >= wanted.upper:
            break

        if partition.lower is not None and partition.lower > lower:
            yield Bounds(lower, partition.lower)

        if partition.upper is None:
            return

        lower = partition.upper

    if lower < wanted.upper:
        yield Bounds(lower, wanted.upper)


def covered(existing: Sequence[Partition], *, since: datetime, until: datetime) -> bool:
    """Whether rows of all that time go to partitions rather than to DEFAULT."""
    return not any(gaps(Bounds(since, until), existing))


def _in_order(existing: Sequence[Partition]) -> list[Partition]:
    return sorted(
        (partition for partition in existing if not partition.is_default),
        key=lambda partition: (partition.lower is not None, partition.lower),
    )


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)
