"""Making a slot: with the plan to read from the table what it will not bring."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
from msgspec import Struct

from pgcdc_outbox.errors import (
    CheckpointForeign,
    OutboxError,
    SettingsError,
    SlotBlocked,
    WalLevelTooLow,
)
from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.pgoutput import commands
from pgcdc_outbox.postgres.queries import for_schema
from pgcdc_outbox.postgres.source.checkpoint import NOTHING_SEEN, normal
from pgcdc_outbox.postgres.source.leadership import Leadership
from pgcdc_outbox.postgres.source.publication import Publication, prove_unchanged
from pgcdc_outbox.postgres.source.stream import ReplicationStream

FAILOVER_SINCE = 170000
_LOSSES_KEPT = 10
_END_SECONDS = 2.0

# What the slot's snapshot sees was committed before its position. A row that it sees,
# written by a transaction that it does not see, is from another cluster.
_LOOK = """
select pg_current_snapshot()::text, exists (
    select
    from :"schema".immediate
    where xid >= pg_snapshot_xmin(pg_current_snapshot())
      and not pg_visible_in_snapshot(xid, pg_current_snapshot())
)
"""


class Made(Struct, frozen=True, kw_only=True):
    """A new slot, and the plan that was saved with it."""

    target: str
    """The snapshot at which the slot begins."""
    position: LSN


async def make_slot(
    stream: ReplicationStream,
    leadership: Leadership,
    slot: str,
    *,
    publication: Publication,
    failover: bool,
    lost: bool,
) -> Made:
    """Make the slot, in place of one that is there, and save the plan to reconcile.

    Until the plan is saved a crash leaves a slot that continues nothing; it is
    dropped and made again. ``lost`` counts it as one that was lost.
    """
    check_failover(stream, failover)
    await leadership.fenced("forget_slot", {}, doing="prepare a new slot")
    if await leadership.rows("find_slot", {"slot": slot}, doing="look at the slot"):
        await stream.query(commands.drop_replication_slot(slot), doing=f"drop slot {slot}")

    async with _cleaning_up(stream, leadership):
        ((_, point, exported, _),) = await stream.query(
            commands.create_replication_slot(
                slot,
                server_version=stream.server_version,
                snapshot="export",
                failover=failover,
            ),
            doing=f"create slot {slot}",
        )

    # Rows are never changed, so the text of the snapshot is enough to tell them apart later.
    target, alien = await leadership.session.in_snapshot(
        str(exported), for_schema(_LOOK, leadership.schema), doing="read the slot's snapshot"
    )
    if alien:
        raise CheckpointForeign(
            f"jobs in {leadership.schema}.immediate were written in another cluster: "
            "their transaction ids mean nothing here",
            hint=f"Run `pgcdc-outbox slot reconcile --name {leadership.consumer} "
            "--accept-new-system restored`.",
        )

    await prove_unchanged(leadership, publication, since=NOTHING_SEEN)
    position = LSN.parse(str(point))
    await leadership.fenced(
        "plan_reconcile",
        {
            "slot": slot,
            "system_id": leadership.system.system_id,
            "timeline": leadership.system.timeline,
            "target": normal(target),
            "target_lsn": str(position),
            "lost": lost,
            "keep": _LOSSES_KEPT,
        },
        doing="plan to reconcile",
    )
    return Made(target=normal(target), position=position)


def require_log(leadership: Leadership) -> None:
    """Raise `WalLevelTooLow` if the log cannot be decoded."""
    if leadership.wal_level != "logical":
        raise WalLevelTooLow(
            f"read the log for consumer {leadership.consumer}: wal_level is {leadership.wal_level}"
        )


def check_failover(stream: ReplicationStream, failover: bool) -> None:
    """Raise `SettingsError` if a standby cannot have a copy of a slot of this server."""
    if failover and stream.server_version < FAILOVER_SINCE:
        raise SettingsError(
            f"failover: PostgreSQL {stream.server_version // 10000} has no slots that follow a "
            "failover",
            hint="They need version 17. Without one the next start after a failover makes a new "
            "slot, and reads the table.",
        )


@asynccontextmanager
async def _cleaning_up(stream: ReplicationStream, leadership: Leadership) -> AsyncIterator[None]:
    """Say whom the making waited for; and end it on the server, too, if we do not wait for it.

    The process that makes a slot waits for every transaction that has written. It does
    not notice that we are gone, and would hold the half-made slot, and the log, until
    the last of them ends.
    """
    ((pid,),) = await stream.query("select pg_backend_pid()", doing="prepare a new slot")
    try:
        yield
    except SlotBlocked as error:
        writers = await leadership.rows("writers", {}, doing="look for open transactions")
        if not writers:
            raise

        raise SlotBlocked(
            f"{error}; it waits for {', '.join(text for (text,) in writers)}",
            hint="A slot begins when every transaction has ended that has written. End those, "
            "or wait; this is tried again.",
        ) from error
    except BaseException:
        # Our connection is still open, so the pid is no other's.
        with anyio.move_on_after(_END_SECONDS, shield=True), suppress(OutboxError):
            await leadership.rows("end_creator", {"pid": pid}, doing="give up the new slot")

        raise
