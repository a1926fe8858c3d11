"""The slot of one consumer, as the server sees it."""

from typing import Any

from msgspec import Struct

from pgcdc_outbox.core.lag import Level
from pgcdc_outbox.postgres.connection import Row, run, session
from pgcdc_outbox.postgres.migrate import check_schema
from pgcdc_outbox.postgres.names import slot_name
from pgcdc_outbox.postgres.source.slots import as_slot

__all__ = ["Level", "SlotState", "slot_state"]


class SlotState(Struct, frozen=True, kw_only=True):
    """A slot, and what is wrong with it."""

    consumer: str
    slot: str
    exists: bool
    serves: bool
    """It continues the checkpoint of the consumer."""
    rereading: bool
    """Jobs that the slot cannot bring are being read from the table, or will be."""
    lost_within_an_hour: int
    wal_status: str | None = None
    invalid: str | None = None
    """Why the server gave it up; None while it is good."""
    foreign: str | None = None
    """What it is, if it is no slot of this outbox."""
    safe_wal_bytes: int | None = None
    """What may be written before it is in danger; None without a limit."""
    lag_bytes: int | None = None
    retained_bytes: int | None = None
    confirmed: str | None = None
    failover: bool = False
    synced: bool = False
    inactive_since: str | None = None
    reader: str | None = None

    def judge(self) -> tuple[Level, str]:
        """How bad it is, and what to do."""
        if not self.exists:
            return Level.CRITICAL, "it does not exist; the next start makes it"

        if self.foreign:
            return Level.CRITICAL, f"it is {self.foreign}"

        if self.invalid:
            return Level.CRITICAL, f"it is invalid; the next start replaces it ({self.invalid})"

        if not self.serves:
            return Level.CRITICAL, "it does not continue the checkpoint; the next start replaces it"

        if self.wal_status == "unreserved":
            return Level.WARNING, "the server may remove its log at any checkpoint"

        return Level.OK, "it serves"


def slot_state(conninfo: str, *, consumer: str = "default", schema: str = "outbox") -> SlotState:
    """Look at the slot of a consumer. Raises `OutboxError`."""
    check_schema(schema)
    with session(conninfo, doing="look at the slot") as connection:
        here = run(connection, "whereabouts_now", schema).fetchone()
        assert here is not None
        name = slot_name(schema, consumer, here["oid"])
        row = run(connection, "slot_status", schema, consumer=consumer, slot=name).fetchone()

    assert row is not None
    return _state(row, name, here["datname"])


def _state(row: Row, name: str, database: str) -> SlotState:
    known: dict[str, Any] = {
        "consumer": row["consumer"],
        "slot": name,
        "serves": row["slot"] == name,
        "rereading": row["rereading"],
        "lost_within_an_hour": row["lost_within_an_hour"],
    }
    if row["server"] is None:
        return SlotState(exists=False, **known)

    slot = as_slot(row["server"], reader=row["reader"], address=row["reader_address"])
    return SlotState(
        exists=True,
        wal_status=slot.wal_status,
        invalid=slot.invalid or None,
        foreign=slot.foreign(database) or None,
        safe_wal_bytes=slot.safe_wal_size,
        lag_bytes=row["lag_bytes"],
        retained_bytes=row["retained_bytes"],
        confirmed=slot.confirmed_flush_lsn,
        failover=slot.failover,
        synced=slot.synced,
        inactive_since=slot.inactive_since,
        reader=slot.described_reader if slot.active_pid is not None else None,
        **known,
    )
