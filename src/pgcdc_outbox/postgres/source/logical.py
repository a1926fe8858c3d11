"""Opening the log: a connection for replication, and the slot."""

from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.errors import AccessRefused, SourceUnavailable
from pgcdc_outbox.events import SlotCreated
from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.postgres.names import slot_name
from pgcdc_outbox.postgres.source.checkpoint import Checkpoint
from pgcdc_outbox.postgres.source.feed import LogicalFeed
from pgcdc_outbox.postgres.source.leadership import Leadership
from pgcdc_outbox.postgres.source.making import require_log
from pgcdc_outbox.postgres.source.memory import Memory
from pgcdc_outbox.postgres.source.shutdown import Shutdown
from pgcdc_outbox.postgres.source.slot_loss import SlotPolicy
from pgcdc_outbox.postgres.source.start import find_start
from pgcdc_outbox.postgres.source.stream import ReplicationStream


async def open_log(
    conninfo: str,
    leadership: Leadership,
    checkpoint: Checkpoint | None,
    *,
    memory: Memory,
    checkpoint_interval: float,
    policy: SlotPolicy,
    lost: str,
    wal_sender_timeout: float | None,
    shutdown: Shutdown,
    notice: Notice,
    leave_at: LSN | None = None,
    max_retained: int | None = None,
) -> LogicalFeed | None:
    """Be ready to stream from the slot that continues the checkpoint.

    None if a slot had to be made: then the table is to be read first, as the
    plan says that was saved with it. Raises `OutboxError`.
    """
    require_log(leadership)
    stream = await _connect(conninfo, leadership, wal_sender_timeout)
    try:
        # It may have to wait long for a slot to be made.
        feed = await leadership.lock.during(
            lambda: _feed(
                stream,
                leadership,
                checkpoint,
                memory=memory,
                checkpoint_interval=checkpoint_interval,
                policy=policy,
                lost=lost,
                shutdown=shutdown,
                notice=notice,
                leave_at=leave_at,
                max_retained=max_retained,
            )
        )
    except BaseException:
        stream.close()
        raise

    if feed is None:
        stream.close()

    return feed


async def _connect(
    conninfo: str, leadership: Leadership, timeout: float | None
) -> ReplicationStream:
    try:
        return await ReplicationStream.open(conninfo, name=leadership.instance, timeout=timeout)
    except (AccessRefused, SourceUnavailable) as error:
        # The driver does not say why: it may be a role that may not replicate.
        if refusal := await leadership.why_no_replication():
            raise refusal from error

        raise


async def _feed(
    stream: ReplicationStream,
    leadership: Leadership,
    checkpoint: Checkpoint | None,
    *,
    memory: Memory,
    checkpoint_interval: float,
    policy: SlotPolicy,
    lost: str,
    shutdown: Shutdown,
    notice: Notice,
    leave_at: LSN | None,
    max_retained: int | None,
) -> LogicalFeed | None:
    slot = slot_name(leadership.schema, leadership.consumer, leadership.database_oid)
    start = await find_start(
        stream,
        leadership,
        checkpoint,
        slot,
        reported=memory.flushed,
        policy=policy,
        notice=notice,
        lost=lost,
        may_create=leave_at is None,
    )
    if start.created:
        notice(
            SlotCreated(
                consumer=leadership.consumer,
                slot=slot,
                position=start.position,
                reason=start.created,
            )
        )
        return None

    ((timeout,),) = await stream.query(
        "select setting from pg_settings where name = 'wal_sender_timeout'",
        doing="ask for wal_sender_timeout",
    )
    return LogicalFeed(
        stream,
        leadership,
        start,
        memory=memory,
        timeout=int(timeout or 0) / 1000,
        checkpoint_interval=checkpoint_interval,
        shutdown=shutdown,
        notice=notice,
        leave_at=leave_at,
        max_retained=max_retained,
    )
