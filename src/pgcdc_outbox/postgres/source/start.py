"""Where a hold begins: with the slot that is there, or with a new one and the table."""

from msgspec import Struct

from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.errors import CheckpointForeign, SlotMissing
from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.pgoutput import commands
from pgcdc_outbox.postgres.source.checkpoint import NOTHING_SEEN, Checkpoint, Reconcile, System
from pgcdc_outbox.postgres.source.leadership import Leadership
from pgcdc_outbox.postgres.source.making import check_failover, make_slot
from pgcdc_outbox.postgres.source.predecessor import take_over
from pgcdc_outbox.postgres.source.publication import Publication, require_publication
from pgcdc_outbox.postgres.source.slot_loss import SlotPolicy, judge_loss
from pgcdc_outbox.postgres.source.slots import Gap, find_gap
from pgcdc_outbox.postgres.source.stream import ReplicationStream


class Start(Struct, frozen=True, kw_only=True):
    """Where to begin."""

    slot: str
    publication: Publication
    system: System
    snapshot: str
    """Every job visible in it is settled."""
    lsn: LSN
    position: LSN
    """Where to read on; 0/0 leaves it to the slot."""
    saved: LSN
    """What the checkpoint says is settled."""
    reconcile: Reconcile | None
    """What to read from the table first."""
    replayed: str
    """The snapshot since which attempts may have been recorded that the log brings again."""
    created: str = ""
    """Why a new slot was made; empty if the old one goes on."""


async def find_start(
    stream: ReplicationStream,
    leadership: Leadership,
    checkpoint: Checkpoint | None,
    slot: str,
    *,
    reported: LSN,
    policy: SlotPolicy,
    notice: Notice,
    lost: str = "",
    may_create: bool = True,
) -> Start:
    """Go on with the slot if it continues the checkpoint, or make one and plan a reconcile.

    ``reported`` is the highest position that this process has told the server;
    ``lost`` is why it gave up the slot in the hold before, if it did.
    Raises `SlotMissing` if a new slot is needed and not wanted, and `SlotLost` if
    the settings say so.
    """
    since = relied_on(checkpoint)
    publication = await require_publication(leadership, since=since)
    found = await take_over(leadership, slot, grace=policy.takeover_grace, notice=notice)
    gap = find_gap(leadership, checkpoint, slot, found, reported=reported)
    if gap is None and (lost or publication.changed):
        gap = Gap(lost or f"publication {publication.name} was changed", lost=True)

    if gap is None:
        assert checkpoint is not None
        assert found is not None
        check_failover(stream, policy.failover)
        if policy.failover and not found.failover:
            await stream.query(
                commands.alter_replication_slot(slot, failover=True),
                doing=f"let slot {slot} follow a failover",
            )

        return _go_on(leadership, checkpoint, slot, publication)

    if not may_create:
        raise SlotMissing(f"slot {slot} is of no use: {gap.reason}")

    if gap.lost:
        await judge_loss(leadership, policy, gap.reason)

    made = await make_slot(
        stream,
        leadership,
        slot,
        publication=publication,
        failover=policy.failover,
        lost=gap.lost,
    )
    settled = NOTHING_SEEN if checkpoint is None else checkpoint.snapshot
    return Start(
        slot=slot,
        publication=publication,
        system=leadership.system,
        snapshot=settled,
        lsn=LSN(0),
        position=made.position,
        saved=LSN(0),
        reconcile=Reconcile(since=settled, target=made.target, position=made.position),
        replayed=settled,
        created=gap.reason,
    )


def require_same_cluster(leadership: Leadership, checkpoint: Checkpoint | None) -> None:
    """Raise `CheckpointForeign` if transaction ids and positions mean nothing here."""
    if checkpoint is not None and checkpoint.system.system_id != leadership.system.system_id:
        raise CheckpointForeign(
            f"the checkpoint of consumer {leadership.consumer} was saved in cluster "
            f"{checkpoint.system.system_id}, this is {leadership.system.system_id}",
            hint=f"Run `pgcdc-outbox slot reconcile --name {leadership.consumer} "
            "--accept-new-system upgraded` after pg_upgrade, `... restored` after a dump and "
            "restore.",
        )


def relied_on(checkpoint: Checkpoint | None) -> str:
    """The snapshot beyond which the slot has to bring the jobs."""
    if checkpoint is None:
        return NOTHING_SEEN

    return checkpoint.snapshot if checkpoint.reconcile is None else checkpoint.reconcile.target


def _go_on(
    leadership: Leadership,
    checkpoint: Checkpoint,
    slot: str,
    publication: Publication,
) -> Start:
    same_history = checkpoint.system == leadership.system
    position = checkpoint.flushed if same_history else LSN(0)
    if position > leadership.flushed:
        # Beyond the end of the log the server would swallow jobs without a word.
        position = LSN(0)

    return Start(
        slot=slot,
        publication=publication,
        system=leadership.system,
        snapshot=checkpoint.snapshot,
        lsn=checkpoint.lsn if same_history else LSN(0),
        position=position,
        saved=position,
        reconcile=checkpoint.reconcile,
        replayed=checkpoint.snapshot if position else NOTHING_SEEN,
    )
