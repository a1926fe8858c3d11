"""The ports in memory: a source, a ledger and a chore that do as they are told.

PostgreSQL's own are tested against real servers; here it is about who is
called, in which order, and what happens when one of them fails.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio

from pgcdc_outbox.consumer.attempt import Attempt
from pgcdc_outbox.consumer.consumer import Limits, Orchestrator
from pgcdc_outbox.consumer.expiry import Expiry
from pgcdc_outbox.consumer.handler import Handler
from pgcdc_outbox.consumer.intake import Intake
from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.consumer.ports import Chore, Observer
from pgcdc_outbox.consumer.settlement import Settlement
from pgcdc_outbox.consumer.stop import Stop
from pgcdc_outbox.core.batching import Batch
from pgcdc_outbox.core.crash import Started
from pgcdc_outbox.core.progress import Ticket
from pgcdc_outbox.core.retry import RetryPolicy
from pgcdc_outbox.core.verdict import Failure
from pgcdc_outbox.errors import SourceUnavailable
from pgcdc_outbox.events import Event
from pgcdc_outbox.job import Job
from pgcdc_outbox.lsn import LSN

PATIENCE = 30.0
"""Seconds after which a test gives up; none should come near it."""


def job(id_: int, **fields: Any) -> Job:
    return Job(id_, "orders", b"{}", **fields)


def jobs(count: int) -> list[Job]:
    return [job(id_) for id_ in range(1, count + 1)]


def batch(*ids: int, dead: str = "") -> Batch:
    made = Batch(dead)
    made.jobs = [job(id_) for id_ in ids]
    made.tickets = [Ticket() for _ in ids]
    return made


class Diary(list[str]):
    """What happened, in order."""


class FakeFeed:
    """Delivers some jobs, then waits to be cancelled, or told to fail."""

    def __init__(
        self,
        deliver: Sequence[Job] = (),
        *,
        epoch: int = 7,
        crashes: int = 0,
        diary: Diary | None = None,
    ):
        self.epoch = epoch
        self.crashes = crashes
        self.flushed = LSN(0)
        self.settled: list[int] = []
        self.finished = 0
        self.finishing: Exception | None = None
        self.diary = Diary() if diary is None else diary
        self.intake: Intake | None = None
        self.reading = anyio.Event()
        self.passed = anyio.Event()
        self.part_done = anyio.Event()
        self._deliver = list(deliver)
        self._failed = anyio.Event()
        self._failure: Exception | None = None
        self._changed = anyio.Event()

    async def run(self, intake: Intake) -> None:
        self.intake = intake
        for each in self._deliver:
            intake.put(each, Ticket(), 0.0)
            intake.release(idle=False)
            if intake.full:
                await intake.room()

        intake.release(idle=True)
        self.reading.set()
        await self._failed.wait()
        assert self._failure is not None
        raise self._failure

    def fail(self, error: Exception) -> None:
        self._failure = error
        self._failed.set()

    def settle(self, batch: Batch) -> None:
        self.settled += [each.id for each in batch.jobs]
        self.diary.append(f"settle {[each.id for each in batch.jobs]}")
        self._changed.set()

    async def caught_up(self) -> None:
        while len(self.settled) < len(self._deliver):
            self._changed = anyio.Event()
            await self._changed.wait()

    async def progressed(self) -> None:
        await self.passed.wait()

    async def over(self) -> None:
        await self.part_done.wait()

    async def finish(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.finished += 1
        self.diary.append("finish")
        if self.finishing is not None:
            raise self.finishing


class FakeSource:
    """Opens what it is given, in that order: feeds, errors, or an event to wait for."""

    def __init__(self, *steps: FakeFeed | Exception | anyio.Event) -> None:
        self._steps = list(steps)
        self.opened = 0
        self.released = 0
        self.closed = 0
        self.waiting = anyio.Event()

    def close(self) -> None:
        self.closed += 1

    def open(self) -> AbstractAsyncContextManager[FakeFeed]:
        return self._open()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[FakeFeed]:
        self.opened += 1
        await anyio.lowlevel.checkpoint()
        match self._steps.pop(0):
            case FakeFeed() as feed:
                try:
                    yield feed
                finally:
                    self.released += 1
            case Exception() as error:
                raise error
            case anyio.Event() as event:
                self.waiting.set()
                try:
                    await event.wait()
                finally:
                    self.released += 1
                raise AssertionError("nobody should wait so long")


class FakeLedger:
    """Keeps what it is given; raises what it is told to, first."""

    def __init__(self, *errors: Exception, diary: Diary | None = None) -> None:
        self.recorded: list[tuple[int, list[Failure]]] = []
        self.errors = list(errors)
        self.over: Exception | None = None
        """What a look at the epoch raises."""
        self.calls = 0
        self.diary = Diary() if diary is None else diary

    async def record(self, failures: Sequence[Failure], *, epoch: int) -> None:
        self.calls += 1
        await anyio.lowlevel.checkpoint()
        if self.errors:
            self.diary.append("ledger unavailable")
            raise self.errors.pop(0)

        self.diary.append(f"record {[failure.job.id for failure in failures]}")
        self.recorded.append((epoch, list(failures)))

    async def record_done(self, jobs: Sequence[Job], *, epoch: int) -> int:
        raise AssertionError("the success of a plain handler is not recorded")

    async def check(self, *, epoch: int) -> None:
        await anyio.lowlevel.checkpoint()
        if self.over is not None:
            raise self.over

    @property
    def failures(self) -> list[Failure]:
        return [failure for _, failures in self.recorded for failure in failures]


class NoUnits:
    """For handlers that want none."""

    def open(self, *, epoch: int) -> Any:
        raise AssertionError("a plain handler has no unit")


class FakeRegister:
    """Keeps what is noted; raises what it is told to, first."""

    def __init__(
        self, *noted: Started, errors: Sequence[Exception] = (), diary: Diary | None = None
    ) -> None:
        self.noted = {each.id: each for each in noted}
        self.calmed = 0
        self.errors = list(errors)
        self.diary = Diary() if diary is None else diary

    async def left(self) -> Sequence[Started]:
        await anyio.lowlevel.checkpoint()
        return list(self.noted.values())

    async def start(self, job: Job, *, ended: Mapping[int, int], epoch: int) -> None:
        await self._write(f"start {job.id}/{job.attempt}, ended {list(ended)}")
        self._drop(ended)
        self.noted[job.id] = Started(id=job.id, attempt=job.attempt, ours=True)

    async def start_once(self, jobs: Sequence[Job], *, epoch: int) -> None:
        raise AssertionError("a plain handler notes nothing")

    async def forget(self, ended: Mapping[int, int], *, epoch: int) -> None:
        await self._write(f"forget {sorted(ended)}")
        self._drop(ended)

    async def calm(self, *, epoch: int) -> None:
        await self._write("calm")
        self.calmed += 1

    async def _write(self, what: str) -> None:
        await anyio.lowlevel.checkpoint()
        if self.errors:
            raise self.errors.pop(0)

        self.diary.append(what)

    def _drop(self, ended: Mapping[int, int]) -> None:
        for id_ in ended:
            self.noted.pop(id_, None)


class FakeClock:
    """The server's clock, as a test sets it; counts how often it was looked at."""

    def __init__(self, now_us: int = 0, *errors: Exception) -> None:
        self.value = now_us
        self.looks = 0
        self._errors = list(errors)

    async def now_us(self) -> int:
        self.looks += 1
        if self._errors:
            raise self._errors.pop(0)

        return self.value


class FakeChore:
    """Does nothing, as often as it is told; then waits for ever."""

    name = "sweep"

    def __init__(self, *results: float | Exception) -> None:
        self._results = list(results)
        self.calls = 0
        self.exhausted = anyio.Event()

    async def once(self) -> float:
        self.calls += 1
        if not self._results:
            self.exhausted.set()
            await anyio.sleep_forever()

        match self._results.pop(0):
            case Exception() as error:
                raise error
            case delay:
                return delay


class Events(list[Event]):
    """An observer that remembers."""

    def __call__(self, event: Event) -> None:
        self.append(event)

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self if type(event) is kind]

    def names(self) -> list[str]:
        return [type(event).__name__ for event in self]


def attempt(
    handler: Any,
    ledger: FakeLedger | None = None,
    *,
    policy: Any = None,
    observers: Sequence[Observer] = (),
    redact: Callable[[str], str] | None = None,
    concurrency: int = 1,
    clock: FakeClock | None = None,
) -> Attempt:
    notice = Notice(observers)
    ledger = ledger or FakeLedger()
    policy = policy or RetryPolicy()
    return Attempt(
        consumer="default",
        handler=Handler(handler, concurrency=concurrency),
        policy=policy,
        ledger=ledger,
        units=NoUnits(),
        settlement=Settlement(consumer="default", policy=policy, ledger=ledger, notice=notice),
        expiry=Expiry(consumer="default", clock=clock or FakeClock(), notice=notice),
        notice=notice,
        redact=redact,
    )


def orchestrator(
    source: FakeSource,
    handler: Any,
    *,
    ledger: FakeLedger | None = None,
    register: FakeRegister | None = None,
    chores: Sequence[Chore] = (),
    observers: Sequence[Observer] = (),
    batch_size: int = 1,
    concurrency: int = 1,
    prefetch: int = 100,
    drain_timeout: float = 60.0,
) -> Orchestrator:
    return Orchestrator(
        source,
        attempt(handler, ledger, observers=observers, concurrency=concurrency),
        register or FakeRegister(),
        limits=Limits(
            batch_size=batch_size,
            batch_bytes=1 << 20,
            linger=0.0,
            concurrency=concurrency,
            prefetch=prefetch,
            prefetch_bytes=1 << 20,
            drain_timeout=drain_timeout,
        ),
        chores=chores,
        notice=Notice(observers),
    )


class Run:
    """A run on its way: its stop, and its result once it has ended."""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop
        self.result: int | None = None
        self.ended = anyio.Event()

    async def end(self) -> int:
        """Wait for the end that was asked for, or that comes by itself."""
        await self.ended.wait()
        assert self.result is not None
        return self.result


@asynccontextmanager
async def running(which: Orchestrator, *, once: bool = False) -> AsyncIterator[Run]:
    """Run it beside the test; at the end of the test, cancel it."""
    run = Run(Stop())

    async def go() -> None:
        run.result = await which.run(run.stop, once=once)
        run.ended.set()

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(go)
            yield run
            group.cancel_scope.cancel()


async def until(condition: Callable[[], object]) -> None:
    """Let the others run until something is so."""
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.lowlevel.checkpoint()


LOST = SourceUnavailable("the connection was lost")
