"""A handler around that of the user, which notes what is executed and may interrupt it."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
from msgspec import Struct

from pgcdc_outbox.consumer.handler import Handler, was_cancelled
from pgcdc_outbox.core.verdict import read
from pgcdc_outbox.errors import ResultInvalid
from pgcdc_outbox.job import Job
from pgcdc_outbox.outcome import Done


class Call(Struct, frozen=True):
    """One call of the handler that came to its end."""

    jobs: Sequence[Job]
    errors: dict[int, BaseException]
    interrupted: bool


class Script:
    """What is to happen during a drain, and what has."""

    def __init__(
        self, *, max_jobs: int | None, interrupt_after: int | None, deliver_twice: bool
    ) -> None:
        self.calls: list[Call] = []
        self.executed = 0
        self.interrupted = False
        """Whether the drain itself was cut off."""
        self.stop: Callable[[], None] = lambda: None
        """Asks the consumer that runs now to stop."""
        self._max_jobs = max_jobs
        self._interrupt_after = interrupt_after
        self._seen: set[tuple[int, int]] | None = set() if deliver_twice else None

    @property
    def one_by_one(self) -> bool:
        """Whether it matters how many jobs are under way."""
        return self._max_jobs is not None or self._interrupt_after is not None

    @property
    def finished(self) -> bool:
        """Whether nothing more is to be executed."""
        return self.interrupted or (self._max_jobs is not None and self.executed >= self._max_jobs)

    def note(self, jobs: Sequence[Job], errors: dict[int, BaseException]) -> bool:
        """Note a call that came to its end; whether its outcome is to be lost."""
        self.executed += len(jobs)
        self.interrupted = (
            self._interrupt_after is not None and self.executed >= self._interrupt_after
        )
        interrupted = self.interrupted or self._is_first(jobs)
        self.calls.append(Call(jobs, errors, interrupted))
        if self.finished:
            self.stop()

        return interrupted

    def _is_first(self, jobs: Sequence[Job]) -> bool:
        if self._seen is None:
            return False

        new = {(job.id, job.attempt) for job in jobs} - self._seen
        self._seen |= new
        return bool(new)


class Tap:
    """A handler that hands its jobs on."""

    def __init__(self, target: Any, script: Script, *, concurrency: int) -> None:
        self._inner = Handler(target, concurrency=concurrency)
        self._script = script

    async def handle(self, jobs: Sequence[Job]) -> Any:
        """Call the handler; note what it says; come to no end if that is to be lost."""
        return await observed(self._script, jobs, lambda: self._inner(jobs))

    async def finish(self) -> None:
        """Close the handler, as a consumer does when it ends."""
        await self._inner.close()


async def observed(script: Script, jobs: Sequence[Job], call: Callable[[], Awaitable[Any]]) -> Any:
    """Call a handler, unless enough was executed before."""
    if script.finished:
        # A consumer that is asked to stop may take one more batch before it hears of it.
        await _given_up(script)

    result: Any = None
    failure: BaseException | None = None
    try:
        result = await call()
        errors = dict(read(result, jobs))
    except ResultInvalid as error:
        # The consumer will find out by itself.
        errors = _all(jobs, error)
    except BaseException as error:
        if was_cancelled(error):
            raise

        failure = error
        is_done = isinstance(error, Done) and len(jobs) == 1
        errors = {} if is_done else _all(jobs, error)

    if script.note(jobs, errors):
        await _given_up(script)

    if failure is not None:
        raise failure

    return result


async def _given_up(script: Script) -> None:
    """Have the consumer give this call up, with all that hangs on it: nothing is recorded."""
    # Asked twice, it waits for no handler.
    script.stop()
    script.stop()
    await anyio.sleep_forever()


def _all(jobs: Sequence[Job], error: BaseException) -> dict[int, BaseException]:
    return {job.id: error for job in jobs}
