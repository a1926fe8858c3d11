"""Strict order of keys: what is behind a job that failed waits aside until that is finished."""

from collections.abc import Awaitable, Callable, Sequence

import anyio

from pgcdc_outbox.consumer.durably import durably
from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.consumer.ports import Feed, ParkingLot
from pgcdc_outbox.core.batching import Batch
from pgcdc_outbox.core.held_keys import Finished, HeldKey, HeldKeys, Turn
from pgcdc_outbox.core.verdict import Failure
from pgcdc_outbox.events import JobsParked, JobsReleased, OrderGivenUp
from pgcdc_outbox.job import Job

# How soon it is noticed that somebody took away the job that others wait for.
_LOOK_SECONDS = 1.0


class Parking:
    """What one consumer does about keys whose order is strict.

    While it is held, what is known here is what counts, and the tables follow: each
    change is durable before a job is settled that it depends on. Nobody else writes
    but under a newer epoch, or to take a job away that is waited for; that is looked
    for now and then, as a chore.
    """

    name = "look for keys that wait for nobody"

    def __init__(self, lot: ParkingLot, *, consumer: str, notice: Notice) -> None:
        self._lot = lot
        self._consumer = consumer
        self._notice = notice
        self._held = HeldKeys()
        self._epoch: int | None = None
        # The chore must not let jobs go between a look at a key and what follows from it.
        self._lock = anyio.Lock()

    async def begin(self, epoch: int) -> None:
        """Learn what earlier holds left. Raises `OutboxError`."""
        self._held = HeldKeys(await self._lot.held())
        self._epoch = epoch
        async with self._lock:
            await self._release([Finished(key) for key in await self._lot.unheld()], epoch)

    def shares(self, key: str) -> bool:
        """Whether several jobs of a key may come in one batch: they will be parked."""
        return self._held.is_failed(key)

    async def admit(self, batch: Batch, feed: Feed) -> tuple[Batch, Batch]:
        """Park what has to wait, and settle that.

        Returns what may run now, and what is to be admitted after that. Raises as
        `durably` does.
        """
        async with self._lock:
            turns = self._held.turns(batch.jobs)
            parked = _part(batch, turns, Turn.PARKED)
            if parked.jobs:
                await self._park(parked.jobs, feed.epoch)
                feed.settle(parked)

        return _part(batch, turns, Turn.NOW), _part(batch, turns, Turn.NEXT)

    async def settle(self, jobs: Sequence[Job], failures: Sequence[Failure], epoch: int) -> None:
        """Let the next jobs go for which these had to be finished.

        To be called when the failures are recorded, and before the jobs are settled.
        Raises as `durably` does.
        """
        if not failures and not self._held:
            return

        async with self._lock:
            await self._release(self._held.settle(jobs, failures), epoch)

    async def once(self) -> float:
        """Let jobs go that wait for one which somebody has taken away."""
        if self._held and self._epoch is not None:
            async with self._lock:
                keys = await self._lot.orphaned()
                await self._release([Finished(key) for key in keys], self._epoch)

        return _LOOK_SECONDS

    async def _park(self, jobs: Sequence[Job], epoch: int) -> None:
        holders = [self._held[job.key or ""] for job in jobs]
        await self._durably(
            lambda: self._lot.park(jobs, holders, epoch=epoch), "park jobs behind a failed one"
        )
        self._notice(JobsParked(consumer=self._consumer, jobs=len(jobs)))

    async def _release(self, finished: Sequence[Finished], epoch: int) -> None:
        if not finished:
            return

        released: dict[str, HeldKey] = {}

        async def release() -> None:
            released.update(await self._lot.release(finished, epoch=epoch))

        await self._durably(release, "let parked jobs go")
        for each in finished:
            self._held.release(each.key, released.get(each.key))

        self._notice(
            JobsReleased(
                consumer=self._consumer,
                keys=len(finished),
                free=len(finished) - len(released),
            )
        )

    async def _durably(self, write: Callable[[], Awaitable[None]], doing: str) -> None:
        await durably(write, doing=doing, consumer=self._consumer, notice=self._notice)


class Clearing:
    """What a consumer does that knows no strict order: it lets go what an earlier one parked."""

    def __init__(self, lot: ParkingLot, *, consumer: str, notice: Notice) -> None:
        self._lot = lot
        self._consumer = consumer
        self._notice = notice

    async def begin(self, epoch: int) -> None:
        """Put all that is parked back in line, each key in its order. Raises `OutboxError`."""
        keys = {held.key for held in await self._lot.held()} | set(await self._lot.unheld())
        if keys:
            self._notice(OrderGivenUp(consumer=self._consumer, keys=len(keys)))

        while keys:
            finished = [Finished(key) for key in sorted(keys)]
            keys = set(await self._lot.release(finished, epoch=epoch))


def _part(batch: Batch, turns: Sequence[Turn], turn: Turn) -> Batch:
    marks = iter(turns)
    return batch.part(lambda job: next(marks) is turn)
