"""The replication slot of a consumer: looked up, and judged by what we know of it."""

from typing import Any

import msgspec
from msgspec import Struct

from pgcdc_outbox.errors import SlotForeign
from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.postgres.source.checkpoint import Checkpoint
from pgcdc_outbox.postgres.source.leadership import Leadership

# What PostgreSQL gives as the reason, in words for a person.
_CAUSES = {
    "wal_removed": "its log was removed, see max_slot_wal_keep_size",
    "idle_timeout": "nobody read it for idle_replication_slot_timeout",
    "rows_removed": "rows of the catalog that it needs were removed",
    "wal_level_insufficient": "wal_level was too low",
}


class Slot(Struct, frozen=True, kw_only=True):
    """What the server says of a slot. Columns that a version does not have keep the default."""

    slot_name: str
    slot_type: str
    plugin: str | None = None
    database: str | None = None
    temporary: bool = False
    two_phase: bool = False
    active_pid: int | None = None
    wal_status: str | None = None
    safe_wal_size: int | None = None
    confirmed_flush_lsn: str | None = None
    restart_lsn: str | None = None
    conflicting: bool | None = None
    """16 and later. Version 16 says so of every slot that it gave up."""
    invalidation_reason: str | None = None
    """17 and later, as the next three."""
    inactive_since: str | None = None
    failover: bool = False
    synced: bool = False
    reader: str = ""
    """The application that reads it right now."""
    reader_since: str = ""

    @property
    def invalid(self) -> str:
        """Why the server gave the slot up, its own word first; empty while it is good."""
        reason = self.invalidation_reason
        if not reason:
            if self.wal_status != "lost":
                return ""

            # A slot whose log was removed has no place in it any more.
            conflicts = self.conflicting and self.restart_lsn is not None
            reason = "rows_removed" if conflicts else "wal_removed"

        return f"{reason}: {_CAUSES[reason]}" if reason in _CAUSES else reason

    @property
    def described_reader(self) -> str:
        """Who reads it, for a person."""
        return f"{self.reader or 'a process'} (pid {self.active_pid}{self.reader_since})"

    def foreign(self, database: str) -> str:
        """What it is, if it is no slot of an outbox in this database; else empty."""
        if self.slot_type != "logical":
            return f"a {self.slot_type} slot"

        if self.plugin != "pgoutput":
            return f"a slot of {self.plugin}"

        if self.database != database:
            return f"a slot in database {self.database}"

        if self.temporary:
            return "a temporary slot"

        return "a slot for two-phase commit" if self.two_phase else ""


class Gap(Struct, frozen=True):
    """Why a new slot has to be made."""

    reason: str
    lost: bool
    """There was one that served, and it is gone or has a gap."""


async def look_up(leadership: Leadership, name: str) -> Slot | None:
    """The slot of that name. Raises `SlotForeign` if it is not one of ours."""
    rows = await leadership.rows("find_slot", {"slot": name}, doing="look at the slot")
    if not rows:
        return None

    view, reader, address, since = rows[0]
    slot = as_slot(view, reader=reader, address=address, since=since)
    if what := slot.foreign(leadership.database):
        raise SlotForeign(
            f"slot {name} exists, but it is {what}",
            hint=f"Drop it if nobody needs it: select pg_drop_replication_slot('{name}');",
        )

    return slot


def as_slot(
    view: dict[str, Any],
    *,
    reader: str | None,
    address: str | None = None,
    since: str | None = None,
) -> Slot:
    """A slot from the server's view of it, and from what it says of the reader."""
    details = "".join(
        f", {word} {value}" for word, value in (("from", address), ("since", since)) if value
    )
    return msgspec.convert({**view, "reader": reader or "", "reader_since": details}, Slot)


def find_gap(
    leadership: Leadership,
    checkpoint: Checkpoint | None,
    slot: str,
    found: Slot | None,
    *,
    reported: LSN,
) -> Gap | None:
    """Why the slot does not continue the checkpoint; None if it does."""
    if checkpoint is None:
        return Gap("first start", lost=False)

    if leadership.slot is None:
        # Dropped by our command, or never finished.
        return Gap("there was no slot", lost=False)

    if leadership.slot != slot:
        return Gap(f"slot {leadership.slot} of another database served before", lost=False)

    if found is None:
        return Gap("the slot is missing", lost=True)

    if found.invalid:
        return Gap(f"the slot was invalidated: {found.invalid}", lost=True)

    if _is_another(leadership, checkpoint, found, reported):
        return Gap(
            "the slot begins after what was settled: somebody advanced it or made it anew",
            lost=True,
        )

    return None


def _is_another(leadership: Leadership, checkpoint: Checkpoint, found: Slot, reported: LSN) -> bool:
    """Whether the slot is not the one we left: one made later by the same name has a gap."""
    confirmed = LSN.parse(found.confirmed_flush_lsn or "0/0")
    plan = checkpoint.reconcile
    settled = checkpoint.flushed if plan is None else plan.position
    if found.failover and checkpoint.system != leadership.system:
        # A copy from another server: the two pieces of news travel apart.
        return False

    if leadership.before == "ours":
        # What was saved last may not have survived the server, but this process has.
        settled = max(settled, reported)

    # Nothing is reported before it is saved.
    return confirmed > settled
