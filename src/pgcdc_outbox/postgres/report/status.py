"""The state of an outbox: what is in it, who reads it, how it is stored."""

from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct

from pgcdc_outbox.errors import SchemaBehind
from pgcdc_outbox.postgres import migrate
from pgcdc_outbox.postgres.connection import run, session
from pgcdc_outbox.postgres.partition import partitions
from pgcdc_outbox.postgres.partition.partitions import Partition

_COUNTED: Final = 100_000


class Counts(Struct, frozen=True, kw_only=True):
    """How many jobs there are."""

    immediate: int
    """Rows kept, settled or not."""
    immediate_is_exact: bool
    """Whether they were counted, or estimated by the last ANALYZE."""
    scheduled: int
    scheduled_due: int
    failed: int
    failed_due: int
    parked: int
    """Jobs that wait until another of their key is done or dead."""
    held_keys: int
    """Keys for which that is so."""
    dead: dict[str, int]
    """By reason."""


class ConsumerState(Struct, frozen=True, kw_only=True):
    """Who reads, and how far the durable position is."""

    name: str
    mode: str | None
    """How it was read last: ``logical`` or ``polling``."""
    slot: str | None
    epoch: int
    instance: str | None
    taken_at: datetime | None
    crashes: int
    """Holds in a row that ended with their process and without progress."""
    flushed: str | None
    checkpoint_at: datetime | None
    checkpoint_age_seconds: float | None
    rereading: bool


class Overview(Struct, frozen=True, kw_only=True):
    """One outbox."""

    schema: str
    migration: int
    pending: int
    """Migrations of this version that were not applied."""
    counts: Counts
    default_rows: int
    """Rows without a partition, counted up to 100 000."""
    consumers: tuple[ConsumerState, ...]
    partitions: tuple[Partition, ...]


def overview(conninfo: str, *, schema: str = "outbox") -> Overview:
    """Look at an outbox. Raises `SchemaBehind` if there is none."""
    migrate.check_schema(schema)
    with session(conninfo, doing="look at the outbox") as connection:
        done = migrate.applied(connection, schema)
        if not done:
            raise SchemaBehind(f"there is no outbox in schema {schema!r}")

        root = partitions.root(schema)
        counts = run(connection, "job_counts", schema, limit=_COUNTED, root=root).fetchone()
        dead = run(connection, "dead_by_reason", schema).fetchall()
        consumers = run(connection, "consumer_states", schema).fetchall()
        stored = partitions.read(connection, schema)
        strays = [
            run(connection, "default_rows", schema, partition=each.name, limit=_COUNTED).fetchone()
            for each in stored
            if each.is_default
        ]

    assert counts is not None
    exact = counts["immediate"] < _COUNTED
    numbers = {step.number for step in done}
    return Overview(
        schema=schema,
        migration=done[-1].number,
        pending=sum(step.number not in numbers for step in migrate.known()),
        counts=Counts(
            immediate=counts["immediate"]
            if exact
            else max(counts["immediate"], counts["immediate_estimate"]),
            immediate_is_exact=exact,
            scheduled=counts["scheduled"],
            scheduled_due=counts["scheduled_due"],
            failed=counts["failed"],
            failed_due=counts["failed_due"],
            parked=counts["parked"],
            held_keys=counts["held_keys"],
            dead={row["reason"]: row["jobs"] for row in dead},
        ),
        default_rows=sum(row["rows"] for row in strays if row is not None),
        consumers=msgspec.convert(consumers, tuple[ConsumerState, ...]),
        partitions=tuple(stored),
    )
