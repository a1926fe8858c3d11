"""A replication slot as the server has it, whatever its version shows."""

from typing import Any

from msgspec import Struct

from pgcdc_outbox.postgres.connection import Row


class Slot(Struct, frozen=True, kw_only=True):
    """A row of ``pg_replication_slots``, with what we want to know beside it."""

    name: str
    kind: str
    plugin: str | None
    database: str | None
    active: bool
    active_pid: int | None
    wal_status: str | None
    invalid: str
    """Why the server gave it up; empty while it is good."""
    temporary: bool
    two_phase: bool
    failover: bool
    synced: bool
    holds_xmin: bool
    lag_bytes: int
    """Log written since what its reader confirmed."""
    retained_bytes: int
    """Log that the server keeps for it."""
    reader: str
    """What the process that reads it calls itself."""
    waits_for: str

    @classmethod
    def read(cls, row: Row) -> "Slot":
        """From a row of the query ``doctor_slots``."""
        seen: dict[str, Any] = row["seen"]
        return cls(
            name=row["name"],
            kind=seen["slot_type"],
            plugin=seen["plugin"],
            database=seen["database"],
            active=seen["active"],
            active_pid=seen["active_pid"],
            wal_status=seen["wal_status"],
            invalid=_invalid(seen),
            temporary=seen["temporary"],
            two_phase=seen["two_phase"],
            failover=bool(seen.get("failover")),
            synced=bool(seen.get("synced")),
            holds_xmin=seen["xmin"] is not None,
            lag_bytes=row["lag_bytes"] or 0,
            retained_bytes=row["retained_bytes"] or 0,
            reader=row["reader"] or "",
            waits_for=row["wait_event"] or "",
        )


def _invalid(seen: dict[str, Any]) -> str:
    if reason := seen.get("invalidation_reason"):  # 17 and later
        return str(reason)

    # Version 16 says so of every slot that it gave up, but only one whose log was removed
    # has no place in it any more.
    if seen.get("conflicting") and seen["restart_lsn"] is not None:
        return "conflict"

    return "wal_removed" if seen["wal_status"] == "lost" else ""
