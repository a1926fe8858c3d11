"""Lag: how far each consumer is behind, and what holds the log."""

import msgspec
from msgspec import Struct

from pgcdc_outbox.core.lag import Level, Thresholds, parse_size
from pgcdc_outbox.postgres.connection import run, session
from pgcdc_outbox.postgres.migrate import check_schema

__all__ = ["ConsumerLag", "Lag", "Level", "Thresholds", "Writer", "measure", "parse_size"]


class ConsumerLag(Struct, frozen=True, kw_only=True):
    """How far one consumer is behind."""

    consumer: str
    mode: str | None
    """How it was read last: ``logical`` or ``polling``."""
    slot: str | None
    instance: str | None
    slot_exists: bool
    active: bool
    """A process reads the slot right now, or polls."""
    wal_status: str | None
    safe_wal_bytes: int | None
    """What may be written before the slot is in danger; None without a limit."""
    invalid: str | None
    """Why the server gave the slot up; None while it is good."""
    lag_bytes: int | None
    """Log written since what the consumer confirmed: the consumer's own doing."""
    retained_bytes: int | None
    """Log that the server keeps for the slot: also long transactions' doing."""
    checkpoint_age_seconds: float | None
    rereading: bool
    """Jobs that no slot can bring are being read from the table."""
    oldest_id: int | None
    """The oldest job that no checkpoint knows to be settled."""
    behind_seconds: float
    """Its age; up to the interval of checkpoints too much."""
    failed: int
    parked: int
    """Jobs that wait until another of their key is done or dead."""
    dead: int

    def judge(self, thresholds: Thresholds) -> tuple[Level, str]:
        """How bad it is, and why."""
        if not self.slot_exists and (self.slot or self.mode != "polling"):
            return Level.CRITICAL, "the slot does not exist"

        if self.invalid:
            return Level.CRITICAL, f"the slot is invalid: {self.invalid}"

        level = thresholds.judge(self.lag_bytes or 0)
        return level, "" if level is Level.OK else "behind"


class Writer(Struct, frozen=True, kw_only=True):
    """A transaction that has written and is still open."""

    pid: int | None
    """None for a prepared transaction."""
    age_seconds: float
    what: str


class Lag(Struct, frozen=True, kw_only=True):
    """Every consumer, and the transaction that has held the log for longest."""

    consumers: tuple[ConsumerLag, ...]
    oldest_writer: Writer | None

    def judge(self, thresholds: Thresholds) -> Level:
        """The worst of all."""
        levels = (consumer.judge(thresholds)[0] for consumer in self.consumers)
        return max(levels, default=Level.OK)


def measure(conninfo: str, *, schema: str = "outbox", consumer: str | None = None) -> Lag:
    """Measure one consumer, or all. Raises `OutboxError`."""
    check_schema(schema)
    with session(conninfo, doing="measure the lag") as connection:
        consumers = run(connection, "lag", schema, consumer=consumer).fetchall()
        writer = run(connection, "oldest_writer", schema).fetchone()

    return Lag(
        consumers=msgspec.convert(consumers, tuple[ConsumerLag, ...]),
        oldest_writer=msgspec.convert(writer, Writer | None),
    )
