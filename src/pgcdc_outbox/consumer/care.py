"""Finding the job that kills the process, so that the others go on."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from pgcdc_outbox.consumer.attempt import Attempt
from pgcdc_outbox.consumer.durably import durably
from pgcdc_outbox.consumer.ports import Feed, Register
from pgcdc_outbox.consumer.turns import Turns
from pgcdc_outbox.core.batching import Batch
from pgcdc_outbox.core.crash import Started, careful_jobs, is_suspect
from pgcdc_outbox.events import CarefulBegan, CarefulEnded
from pgcdc_outbox.job import Job

# How long calls wait for a suspect to end, and it for them.
_PATIENCE_SECONDS = 30.0


class Care:
    """What one hold does about jobs that may end the process.

    A death names no culprit. So after several in a row without progress the
    hold is careful: it runs jobs one by one, and notes each before it runs. The
    note that a dead process left says who was running, and that execution is
    judged as a failure. From then on this job is a suspect: whenever it comes
    it runs alone and is noted, and the others are as quick as ever.

    With nothing of that in sight it costs a look at each batch.
    """

    def __init__(
        self,
        attempt: Attempt,
        register: Register,
        feed: Feed,
        *,
        noted: Sequence[Started],
        held: int,
        relaxed: Callable[[], None],
    ) -> None:
        self._attempt = attempt
        self._register = register
        self._feed = feed
        self._relaxed = relaxed
        self._crashes = feed.crashes
        self._jobs = careful_jobs(feed.crashes, held=held)
        self._ended: dict[int, int] = {}
        repeatable = [each for each in noted if not each.once]
        self._ours = {each.id: each.attempt for each in repeatable if each.ours}
        self._unfinished = {each.id: each.attempt for each in repeatable if not each.ours}
        self._doubtful = {each.id: each for each in noted if each.once}
        self._turns = Turns(patience=_PATIENCE_SECONDS)
        if self.careful:
            self._attempt.notice(CarefulBegan(consumer=attempt.consumer, crashes=feed.crashes))

    @property
    def careful(self) -> bool:
        """Whether jobs have to come one by one."""
        return self._jobs > 0

    @property
    def calls(self) -> int:
        """How many calls of the handler have not ended."""
        return self._attempt.handler.calls

    @property
    def concerned(self) -> bool:
        """Whether there is something to be done when everything from before is settled."""
        return bool(self._crashes or self._unfinished or self._doubtful)

    async def begin(self) -> None:
        """Forget what an earlier hold of this process noted: nobody died of it."""
        if self._ours:
            await self._forget(self._ours)

    async def check(self) -> None:
        """Raise `Fenced` if another instance took over."""
        await self._attempt.ledger.check(epoch=self._feed.epoch)

    def turn(self, batch: Batch) -> AbstractAsyncContextManager[None]:
        """Wait until a batch may run, and keep others away from a dangerous one."""
        return self._turns.alone() if self._is_dangerous(batch) else self._turns.beside()

    async def run(self, batch: Batch) -> None:
        """Execute a batch; but judge those of its jobs that a dead process was executing.

        And put those aside that began, in whatever process, and are not to be repeated.
        """
        if self._doubtful:
            batch = await self._put_in_doubt(batch)

        if self._unfinished:
            batch = await self._bury(batch)

        if self._is_dangerous(batch):
            await self._run_noted(batch)
        elif batch.jobs:
            await self._attempt.run(batch, self._feed)

    async def caught_up(self) -> None:
        """Relax, once everything from before this hold is settled.

        What is still noted then did end, or its job would have come again.
        """
        self._ended |= self._unfinished
        self._ended |= {id_: note.attempt for id_, note in self._doubtful.items()}
        self._unfinished = {}
        self._doubtful = {}
        await self._relax("everything that was there is settled")
        await self._calm()

    async def part_done(self) -> None:
        """Relax: another hold follows, which looks for itself."""
        await self._relax("this part is done")

    async def progressed(self) -> None:
        """Wait for progress that no crash can undo: earlier ones count no more."""
        if self._crashes:
            await self._feed.progressed()
            await self._calm()

    def _is_dangerous(self, batch: Batch) -> bool:
        jobs = batch.jobs
        return bool(jobs) and not batch.dead and (self.careful or is_suspect(jobs[0]))

    async def _put_in_doubt(self, batch: Batch) -> Batch:
        """Put aside the jobs that began and are not to be repeated; returns the others."""
        notes = self._doubtful

        def began(job: Job) -> bool:
            return job.id in notes and notes[job.id].attempt == job.attempt

        doubtful = batch.part(began)
        if not doubtful.jobs:
            return batch

        others = batch.part(lambda job: not began(job))
        await self._attempt.doubt(doubtful, notes, self._feed)
        for job in doubtful.jobs:
            notes.pop(job.id, None)

        return others

    async def _bury(self, batch: Batch) -> Batch:
        """Judge the jobs that a dead process was executing; returns the others."""
        unfinished = self._unfinished
        crashed = batch.part(lambda job: unfinished.get(job.id) == job.attempt)
        if not crashed.jobs:
            return batch

        others = batch.part(lambda job: unfinished.get(job.id) != job.attempt)
        found = await self._attempt.bury(crashed, self._feed)
        for job in crashed.jobs:
            unfinished.pop(job.id, None)

        if not found:
            return others

        await self._relax("a job was found that ends the process")
        await self._calm()
        return others

    async def _run_noted(self, batch: Batch) -> None:
        (job,) = batch.jobs
        ended, self._ended = self._ended, {}
        await self._durably(
            lambda: self._register.start(job, ended=ended, epoch=self._feed.epoch),
            "note what is about to run",
        )
        await self._attempt.run(batch, self._feed)
        if self.careful:
            await self._count(job)
        else:
            await self._forget({job.id: job.attempt})

    async def _count(self, job: Job) -> None:
        # Forgotten with the next note, which will not be long in coming.
        self._ended[job.id] = job.attempt
        if self._jobs == 1:
            await self._relax("none of many jobs ends the process by itself")
        else:
            self._jobs -= 1

    async def _relax(self, because: str) -> None:
        """End to be careful; nothing is noted any more when the first batch may run."""
        while self._ended:
            ended, self._ended = self._ended, {}
            await self._forget(ended)

        if self.careful:
            self._jobs = 0
            self._relaxed()
            self._attempt.notice(CarefulEnded(consumer=self._attempt.consumer, because=because))

    async def _forget(self, ended: Mapping[int, int]) -> None:
        await self._durably(
            lambda: self._register.forget(ended, epoch=self._feed.epoch), "forget what has ended"
        )

    async def _calm(self) -> None:
        if self._crashes:
            self._crashes = 0
            await self._durably(
                lambda: self._register.calm(epoch=self._feed.epoch), "note that there is progress"
            )

    async def _durably(self, write: Callable[[], Awaitable[None]], doing: str) -> None:
        await durably(
            write, doing=doing, consumer=self._attempt.consumer, notice=self._attempt.notice
        )
