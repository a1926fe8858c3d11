"""The replication slot of a consumer: found, judged, or made anew."""

from msgspec import Struct

from pgcdc_outbox.errors import (
    PublicationMissing,
    SlotForeign,
    SlotInUse,
    SlotMissing,
)
from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.pgoutput import commands
from pgcdc_outbox.postgres.names import publication_name
from pgcdc_outbox.postgres.source.checkpoint import NOTHING_SEEN, Checkpoint, Reconcile, System
from pgcdc_outbox.postgres.source.leadership import Leadership
from pgcdc_outbox.postgres.source.stream import ReplicationStream


class Start(Struct, frozen=True, kw_only=True):
    """Where to begin."""

    slot: str
    publication: str
    system: System
    snapshot: str
    """Every job visible in it is settled."""
    lsn: LSN
    position: LSN
    """Where to read on; 0/0 leaves it to the slot."""
    reconcile: Reconcile | None
    """What to read from the table first."""
    replayed: str
    """The snapshot since which attempts may have been recorded that the log brings again."""
    created: str = ""
    """Why a new slot was made; empty if the old one goes on."""


async def require_publication(leadership: Leadership) -> str:
    """The publication's name. Raises `PublicationMissing` if it would not bring the jobs."""
    name = publication_name(leadership.schema)
    rows = await leadership.rows(
        "find_publication",
        {"publication": name, "schema": leadership.schema},
        doing="check the publication",
    )
    quoted = commands.quote_identifier(name)
    if not rows:
        table = f"{commands.quote_identifier(leadership.schema)}.immediate"
        raise PublicationMissing(
            f"publication {name} does not exist",
            hint=f"create publication {quoted} for table {table} "
            "with (publish = 'insert', publish_via_partition_root = true);",
        )

    inserts, via_root, has_table = rows[0]
    if not (inserts and via_root and has_table):
        raise PublicationMissing(
            f"publication {name} does not publish the inserts of {leadership.schema}.immediate "
            "via its root",
            hint=f"alter publication {quoted} "
            "set (publish = 'insert', publish_via_partition_root = true);",
        )

    return name


async def find_start(
    stream: ReplicationStream,
    leadership: Leadership,
    checkpoint: Checkpoint | None,
    slot: str,
    *,
    reported: LSN,
    may_create: bool = True,
) -> Start:
    """Go on with the slot if it continues the checkpoint, or make one and plan a reconcile.

    ``reported`` is the highest position that this process has told the server.
    Raises `SlotMissing` if a new slot is needed and not wanted.
    """
    publication = await require_publication(leadership)
    ((system_id, timeline, *_),) = await stream.query(
        commands.identify_system(), doing="identify the system"
    )
    system = System(str(system_id), int(timeline or 0))
    reason = await _why_not(leadership, checkpoint, slot, reported)
    if reason and not may_create:
        raise SlotMissing(f"slot {slot} is of no use: {reason}")

    if reason:
        return await _create(stream, leadership, checkpoint, slot, publication, system, reason)

    assert checkpoint is not None
    same_history = checkpoint.system == system
    position = checkpoint.flushed if same_history else LSN(0)
    if position > leadership.flushed:
        # Beyond the end of the log the server would swallow jobs without a word.
        position = LSN(0)

    return Start(
        slot=slot,
        publication=publication,
        system=system,
        snapshot=checkpoint.snapshot,
        lsn=checkpoint.lsn if same_history else LSN(0),
        position=position,
        reconcile=checkpoint.reconcile,
        replayed=checkpoint.snapshot if position else NOTHING_SEEN,
    )


async def _why_not(
    leadership: Leadership, checkpoint: Checkpoint | None, slot: str, reported: LSN
) -> str:
    """Why the slot does not continue the checkpoint; empty if it does."""
    rows = await leadership.rows("find_slot", {"slot": slot}, doing="look at the slot")
    if rows:
        kind, plugin, database, active_pid, wal_status, confirmed, restart, holder = rows[0]
        if kind != "logical" or plugin != "pgoutput" or database != leadership.database:
            raise SlotForeign(
                f"slot {slot} exists, but it is a {kind} slot of "
                f"{plugin or 'no plugin'} in database {database}",
                hint=f"Drop it if nobody needs it: select pg_drop_replication_slot('{slot}');",
            )

        if active_pid is not None:
            raise SlotInUse(f"slot {slot} is read by {holder or 'process'} (pid {active_pid})")

    if checkpoint is None:
        return "first start"

    if not rows:
        return "the slot is missing"

    if wal_status == "lost":
        return "the slot was invalidated: its log was removed"

    if leadership.slot != slot:
        return "the slot does not continue the checkpoint"

    if _is_another(leadership, checkpoint, LSN.parse(confirmed), LSN.parse(restart), reported):
        return "the slot begins after what was settled: somebody made it anew"

    return ""


def _is_another(
    leadership: Leadership, checkpoint: Checkpoint, confirmed: LSN, restart: LSN, reported: LSN
) -> bool:
    """Whether the slot is not the one we left: one made later by the same name has a gap."""
    plan = checkpoint.reconcile
    settled = checkpoint.flushed if plan is None else plan.position
    match leadership.before:
        case "released":
            return confirmed > settled
        case "ours":
            return confirmed > max(settled, reported)
        case _:
            # Nobody knows what a process that died had reported after it last saved. But
            # what a slot needs lies before that, unless the slot was made later.
            return restart > settled


async def _create(
    stream: ReplicationStream,
    leadership: Leadership,
    checkpoint: Checkpoint | None,
    slot: str,
    publication: str,
    system: System,
    reason: str,
) -> Start:
    # From here until the plan is saved a crash leaves a slot that continues nothing;
    # it is dropped and made again.
    await leadership.fenced("forget_slot", {}, doing="prepare a new slot")
    if await leadership.rows("find_slot", {"slot": slot}, doing="look at the slot"):
        await stream.query(commands.drop_replication_slot(slot), doing=f"drop slot {slot}")

    ((_, point, exported, _),) = await stream.query(
        commands.create_replication_slot(
            slot, server_version=stream.server_version, snapshot="export"
        ),
        doing=f"create slot {slot}",
    )
    # What the exported snapshot sees was committed before the slot's position, and
    # everything else comes through the slot. Rows are never changed, so the text of
    # the snapshot is enough to tell them apart later.
    (target,) = await leadership.session.in_snapshot(
        str(exported), "select pg_current_snapshot()::text", doing="read the slot's snapshot"
    )
    position = LSN.parse(str(point))
    await leadership.fenced(
        "plan_reconcile",
        {
            "slot": slot,
            "system_id": system.system_id,
            "timeline": system.timeline,
            "target": target,
            "target_lsn": str(position),
        },
        doing="plan to reconcile",
    )
    since = NOTHING_SEEN if checkpoint is None else checkpoint.snapshot
    return Start(
        slot=slot,
        publication=publication,
        system=system,
        snapshot=since,
        lsn=LSN(0),
        position=position,
        reconcile=Reconcile(since=since, target=target, position=position),
        replayed=since,
        created=reason,
    )
