"""The consumer, as a program uses it."""

from collections.abc import Sequence

import anyio

from pgcdc_outbox.consumer.handler import Handler
from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.consumer.ports import Observer, UserHandler
from pgcdc_outbox.consumer.stop import Stop
from pgcdc_outbox.core.lanes import Ordering
from pgcdc_outbox.core.retry import Policy, RetryPolicy
from pgcdc_outbox.core.verdict import Redact
from pgcdc_outbox.errors import SettingsError
from pgcdc_outbox.job import Job
from pgcdc_outbox.observers.log import LogObserver
from pgcdc_outbox.parameters import (
    Audit,
    Seconds,
    audit_level,
    declared,
    interval,
    limits,
    named,
    reading,
)
from pgcdc_outbox.postgres.conninfo import of_environment
from pgcdc_outbox.postgres.partition.maintenance import Maintenance
from pgcdc_outbox.postgres.producer.schedules.schedule import Schedule
from pgcdc_outbox.postgres.source.reading import Mode
from pgcdc_outbox.postgres.source.slot_loss import OnSlotLoss
from pgcdc_outbox.wiring import Plan, Wiring

MIB = 1024 * 1024
GIB = 1024 * MIB


class Consumer:
    """Reads one outbox and hands its jobs to a handler, at least once each.

    ``handler`` gets a batch of jobs, and returns None (all done), the ids that
    failed, or a mapping of id to `Done`, `Retry`, `Snooze` or `Dead`; it may
    raise those too. Sync handlers run in a thread. Several consumers of different ``name``
    each get every job; several processes of the same name share the work: one
    runs, the others stand by.

    Without ``conninfo`` (None) the environment tells: ``PGCDC_OUTBOX_DSN``, else
    libpq's own variables. Times are seconds or timedeltas:

    - ``batch_size``, ``batch_bytes``: what one call of the handler gets at most
      (a single larger job goes alone);
    - ``linger``: how long a batch waits to be filled while jobs keep coming;
      when nothing comes it leaves at once;
    - ``concurrency``: calls at the same time; with 1 jobs start in the order of
      their commits;
    - ``ordering``: with "key" jobs of one key start in the order of their commits and
      never overlap, whatever ``concurrency`` is; with "strict_key" they also wait
      until one of them that failed is done or dead;
    - ``prefetch``, ``prefetch_bytes``: what is held in memory ahead of the handler,
      by default two batches for each call and at least 2,000 jobs;
    - ``retry``: what becomes of failures;
    - ``drain_timeout``: how long running handlers may take after a stop;
    - ``shutdown_grace``: how long running handlers may take when the server shuts
      down, before its connections are closed so that it can stop;
    - ``wal_sender_timeout``: after how long the server gives up a reader that is
      silent; None leaves it to the server's own setting;
    - ``promote_interval``: how often due jobs are looked for; at least 10 ms;
    - ``checkpoint_interval``: how often the durable position is saved; at least 10 ms;
    - ``mode``: ``logical`` reads the log through a replication slot, ``polling``
      the table; ``auto`` reads the log, and polls while that is not possible or
      the slot would keep more than ``max_retained_wal`` bytes of log;
    - ``poll_interval``: how long to wait, when polling, after nothing was found;
    - ``on_slot_loss``: when the slot is gone or has a gap, make a new one and read
      the table ("reconcile"), or end ("stop");
    - ``max_slot_losses``: new slots within an hour for lost ones; then it ends;
    - ``takeover_grace``: how long a dead predecessor may keep the slot busy;
    - ``failover``: whether standbys keep a copy of the slot (PostgreSQL 17);
    - ``maintenance``: what keeps the partitions meanwhile; True for the defaults
      of `Maintenance`, False for nothing, because something else does;
    - ``audit``: of which executions a row is kept in the table ``attempt``: of none, of
      "failures" (written together with the failure), or of all (a job is then settled
      when its row is durable);
    - ``schedules``: put into the database when the consumer is held first, and
      enqueued from then on by whatever consumer of the outbox runs;
    - ``redact``: takes out of error texts what must not be kept.

    Raises `SettingsError` and `HandlerInvalid` at once.
    """

    def __init__(
        self,
        conninfo: str | None,
        handler: UserHandler,
        *,
        name: str = "default",
        schema: str = "outbox",
        mode: Mode = "logical",
        batch_size: int = 100,
        batch_bytes: int = 4 * MIB,
        linger: Seconds = 0.05,
        concurrency: int = 1,
        ordering: Ordering = "none",
        prefetch: int | None = None,
        prefetch_bytes: int = 64 * MIB,
        retry: Policy | None = None,
        drain_timeout: Seconds = 30.0,
        shutdown_grace: Seconds = 5.0,
        wal_sender_timeout: Seconds | None = None,
        promote_interval: Seconds = 0.1,
        checkpoint_interval: Seconds = 1.0,
        poll_interval: Seconds = 0.05,
        max_retained_wal: int = 10 * GIB,
        on_slot_loss: OnSlotLoss = "reconcile",
        max_slot_losses: int = 3,
        takeover_grace: Seconds = 5.0,
        failover: bool = False,
        maintenance: Maintenance | bool = True,
        audit: Audit = "failures",
        schedules: Sequence[Schedule] = (),
        redact: Redact | None = None,
        observers: Sequence[Observer] | None = None,
    ) -> None:
        self._handler = Handler(handler, concurrency=concurrency)
        policy = self._handler.policy(RetryPolicy() if retry is None else retry)
        if not self._handler.executes and policy.is_last(Job(0, "", b"")):
            # A job whose every failure is final shares no call: its neighbour's
            # exception must not be its death.
            batch_size = 1

        self.name = named("name", name)
        self.schema = named("schema", schema)
        conninfo = of_environment() if conninfo is None else conninfo
        self._plan = Plan(
            conninfo=conninfo,
            consumer=self.name,
            schema=self.schema,
            handler=self._handler,
            policy=policy,
            notice=Notice([LogObserver()] if observers is None else observers),
            limits=limits(
                batch_size=batch_size,
                batch_bytes=batch_bytes,
                linger=linger,
                concurrency=concurrency,
                prefetch=prefetch,
                prefetch_bytes=prefetch_bytes,
                drain_timeout=drain_timeout,
                ordering=ordering,
            ),
            promote_interval=interval("promote_interval", promote_interval),
            reading=reading(
                mode=mode,
                checkpoint_interval=checkpoint_interval,
                poll_interval=poll_interval,
                max_retained_wal=max_retained_wal,
                on_slot_loss=on_slot_loss,
                max_slot_losses=max_slot_losses,
                takeover_grace=takeover_grace,
                failover=failover,
                shutdown_grace=shutdown_grace,
                wal_sender_timeout=wal_sender_timeout,
            ),
            maintenance=(
                Maintenance(conninfo, schema=schema) if maintenance is True else maintenance or None
            ),
            audit=audit_level(audit),
            schedules=declared(schedules),
            redact=redact,
        )
        self._stop: Stop | None = None

    def __repr__(self) -> str:
        return f"Consumer(name={self.name!r}, schema={self.schema!r})"

    async def run(self, *, once: bool = False) -> int:
        """Consume until `stop` is called; with ``once`` until all that is there is settled.

        Everything committed before the start, and every retry and schedule due
        by then, counts as there. Returns how many calls of the handler had to
        be abandoned, because they did not end in time. Raises the first
        `OutboxError` that is not transient.
        """
        if self._stop is not None:
            raise SettingsError("run: this consumer is running already")

        self._stop = Stop()
        wiring = Wiring(self._plan)
        try:
            if once:
                await wiring.put_in_line()

            return await wiring.orchestrator.run(self._stop, once=once)
        finally:
            self._stop = None
            with anyio.CancelScope(shield=True):
                await wiring.close()
                await self._handler.close()

    def stop(self) -> None:
        """Ask to stop: running handlers finish. Asked again, they are cancelled.

        May be called from any thread. Without effect while nothing runs.
        """
        if self._stop is not None:
            self._stop.ask()
