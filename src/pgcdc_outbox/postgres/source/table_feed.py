"""One hold of a consumer through the table: a span that is left to read, or polling."""

import random
import time
from collections.abc import Mapping

import anyio

from pgcdc_outbox.consumer.intake import Intake
from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.consumer.together import together
from pgcdc_outbox.core.batching import Batch
from pgcdc_outbox.core.reconnect import Backoff
from pgcdc_outbox.errors import PermissionMissing, ServerStopping, SlotInUse
from pgcdc_outbox.events import CheckpointSaved, ChoreFailed, Polling, Reconciled, Reconciling
from pgcdc_outbox.lsn import LSN
from pgcdc_outbox.postgres.source.checkpoint import Checkpoint, Reconcile
from pgcdc_outbox.postgres.source.leadership import Leadership
from pgcdc_outbox.postgres.source.memory import Memory
from pgcdc_outbox.postgres.source.shutdown import Shutdown
from pgcdc_outbox.postgres.source.table import TableReading
from pgcdc_outbox.postgres.source.traces import load_traces, save_traces

# As often as the position of a slot is reported: what is settled later is repeated after a crash.
_SAVE_SECONDS = 0.1

# A quiet outbox writes this often all the same, so that a person sees it lives.
_IDLE_SECONDS = 60.0


_DROPPING = "drop the slot that is of no use any more"


class TableFeed:
    """Hands out what lies between the checkpoint and now, from the table.

    With ``poll_interval`` it goes on doing so: the end of one span is the
    beginning of the next. Without, it reads the span that is left, and is over.
    """

    def __init__(
        self,
        leadership: Leadership,
        checkpoint: Checkpoint,
        *,
        memory: Memory,
        slot: str,
        poll_interval: float | None,
        shutdown: Shutdown,
        notice: Notice,
        polls_until: float = float("inf"),
    ) -> None:
        self.epoch = leadership.epoch
        self.crashes = leadership.crashes
        self.released = False
        self._leadership = leadership
        self._consumer = leadership.consumer
        self._checkpoint = checkpoint
        self._memory = memory
        self._slot = slot
        self._poll_interval = poll_interval
        self._polls_until = polls_until
        self._shutdown = shutdown
        self._notice = notice
        self._reading = TableReading(leadership, checkpoint)
        self._first_end: int | None = None
        self._news = anyio.Event()
        self._settled = False
        self._caught_up = anyio.Event()
        self._progressed = anyio.Event()
        self._over = anyio.Event()

    @property
    def flushed(self) -> LSN:
        """Everything before it is settled."""
        return self._reading.settled.flushed

    def settle(self, batch: Batch) -> None:
        """The fate of every job of the batch is durable."""
        self._settled = True
        self._shutdown.settled()
        self._reading.settle(batch)
        self._news.set()
        self._look_caught_up()

    def memory(self) -> Memory:
        """What the next hold of this process should know."""
        return Memory(
            system=self._memory.system,
            epoch=self.epoch,
            saved=self._reading.saved.flushed,
            flushed=self._memory.flushed,
            settled=self._ahead(),
        )

    async def caught_up(self) -> None:
        """Return once everything committed before the hold began is settled."""
        await self._caught_up.wait()

    async def progressed(self) -> None:
        """Return once something that this hold settled cannot come again, even after a crash."""
        await self._progressed.wait()

    async def over(self) -> None:
        """Return when this feed has done its part."""
        await self._over.wait()

    async def run(self, intake: Intake) -> None:
        """Deliver and save until cancelled. Raises `OutboxError` when the hold is lost."""
        self._reading.know(await self._known())
        bear = self._shutdown.bear
        try:
            await together(
                lambda: bear(lambda: self._read(intake)),
                lambda: bear(self._keep_saving),
                lambda: bear(self._leadership.lock.keep),
                lambda: bear(self._drop_slot),
                lambda: self._shutdown.drain(intake),
            )
        except ServerStopping:
            await self._shutdown.leave(self.finish)
            raise

    async def finish(self) -> None:
        """Save the last place, and write down what is settled beyond it."""
        await self._save()
        await save_traces(self._leadership, self._ahead())
        await self._leadership.release()

    def close(self) -> None:
        """Nothing is held but what the leadership has."""

    async def _read(self, intake: Intake) -> None:
        plan = self._checkpoint.reconcile
        finished = plan is None or await self._reconcile(plan, intake)
        if finished and self._poll_interval is None:
            self._over.set()
        elif finished and self._poll_interval is not None:
            await self._poll(intake, self._poll_interval)

        # Nothing more to read: let the saving go on until the workers are done.
        await anyio.sleep_forever()

    async def _reconcile(self, plan: Reconcile, intake: Intake) -> bool:
        """Read the span that is left, and wait until all of it is settled and saved."""
        self._notice(Reconciling(consumer=self._consumer, jobs=await self._reading.count(plan)))
        if not await self._reading.read(plan, intake):
            return False

        intake.release(idle=True)
        if not await self._reading.until_settled(intake):
            return False

        await self._save()
        self._notice(Reconciled(consumer=self._consumer, jobs=self._reading.handed_out))
        return True

    async def _poll(self, intake: Intake, interval: float) -> None:
        self._notice(Polling(consumer=self._consumer, position=self.flushed))
        while not intake.closed:
            span = await self._span()
            before = self._reading.handed_out
            if not await self._reading.read(span, intake):
                return

            intake.release(idle=True)
            if self._first_end is None:
                self._first_end = self._reading.end
                self._look_caught_up()

            if self._reading.handed_out > before:
                # All of it may be settled already, and nothing else would tell of its end.
                self._news.set()
                continue

            if time.monotonic() >= self._polls_until:
                self._over.set()

            await anyio.sleep(interval)

    async def _span(self) -> Reconcile:
        """From where reading ended to now; if nobody else has taken over meanwhile."""
        target, lsn = await self._leadership.held("take_position_held", doing="take a position")
        since = self._reading.place.snapshot
        return Reconcile(since=since, target=target, position=LSN.parse(lsn))

    def _look_caught_up(self) -> None:
        if self._first_end is not None and self._reading.is_settled(self._first_end):
            self._caught_up.set()

    async def _keep_saving(self) -> None:
        while True:
            with anyio.move_on_after(_IDLE_SECONDS):
                await self._news.wait()

            self._news = anyio.Event()
            await self._save()
            await anyio.sleep(_SAVE_SECONDS)

    async def _save(self) -> None:
        settled = self._settled
        if await self._reading.save():
            if settled:
                self._progressed.set()

            self._notice(CheckpointSaved(consumer=self._consumer, position=self.flushed))

    async def _drop_slot(self) -> None:
        """Who polls leaves no slot behind: it would keep log for nobody."""
        backoff = Backoff()
        while self._poll_interval is not None:
            try:
                await self._leadership.rows("drop_slot", {"slot": self._slot}, doing=_DROPPING)
                break
            except (SlotInUse, PermissionMissing) as error:
                delay = backoff.next(random.uniform)
                self._notice(
                    ChoreFailed(
                        consumer=self._consumer,
                        chore=_DROPPING,
                        error=str(error),
                        delay_seconds=delay,
                    )
                )
                await anyio.sleep(delay)

    async def _known(self) -> Mapping[int, int]:
        return await load_traces(
            self._leadership, since=self._checkpoint.snapshot, remembered=self._memory.settled
        )

    def _ahead(self) -> dict[int, int]:
        deliveries = self._reading.ahead()
        if self._first_end is None or not self._reading.is_saved(self._first_end):
            # What earlier holds settled may come again until all of it is passed.
            for id_, each in self._memory.settled.items():
                deliveries[id_] = max(each, deliveries.get(id_, 0))

        return deliveries
