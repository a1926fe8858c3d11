"""Consumers with effects, in processes that are forked in a moment and killed in another.

Each effect is a row in a table that says nothing against a second one. Jobs of topic
``tx`` write it in the transaction of the consumer; those of topic ``once`` are delivered at
most once, and write it, as a payment is made, where nothing takes it back.
"""

import asyncio
import multiprocessing
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
import psycopg
from msgspec import Struct

from pgcdc_outbox import Consumer, Job, RetryPolicy
from pgcdc_outbox.consumer.ports import UnitOfWork
from pgcdc_outbox.events import Event
from pgcdc_outbox.postgres.effects.transaction import Transaction

TABLE = "create table if not exists public.effect (id bigint, attempt int, pid int)"
_EFFECT = "insert into public.effect values (%s, %s, %s)"

POINTS = ("written", "committing", "committed", "begun once", "paid")
"""Moments at which a process may be told to kill or stop itself, beside the events."""


class Task(Struct, frozen=True, kw_only=True):
    """What a process is to do."""

    dsn: str
    mode: str
    at: tuple[str, int] | None = None
    """The event or point, and the how manyth of it, at which a signal is sent."""
    signal: int = signal.SIGKILL
    seconds: float = 0.0
    """How long a call takes."""
    once: bool = False
    concurrency: int = 1


class Moment:
    """Sends the signal when it has come."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._seen = 0

    def __call__(self, name: str) -> None:
        if self._task.at is not None and self._task.at[0] == name:
            self._seen += 1
            if self._seen == self._task.at[1]:
                os.kill(os.getpid(), self._task.signal)


class Effecting:
    """Has one effect for each job; some fail first, after they have had it."""

    def __init__(self, task: Task, moment: Moment) -> None:
        self._task = task
        self._moment = moment
        self._own: psycopg.AsyncConnection[Any] | None = None

    async def execute(self, jobs: Sequence[Job], unit: UnitOfWork) -> dict[int, Exception]:
        errors: dict[int, Exception] = {}
        for job in jobs:
            try:
                await (self._once if job.topic == "once" else self._transact)(job, unit)
            except ValueError as error:
                errors[job.id] = error

        return errors

    async def _transact(self, job: Job, unit: UnitOfWork) -> None:
        async with unit.effects([job]) as part:
            connection = await part.connection(psycopg.AsyncConnection)
            await connection.execute(_EFFECT, [job.id, job.attempt, os.getpid()])
            self._moment("written")
            await anyio.sleep(self._task.seconds)
            if job.json() == "fails" and job.attempt == 1:
                raise ValueError("not yet")

    async def _once(self, job: Job, unit: UnitOfWork) -> None:
        await unit.begin_once([job])
        self._moment("begun once")
        if self._own is None:
            self._own = await psycopg.AsyncConnection.connect(self._task.dsn, autocommit=True)

        await self._own.execute(_EFFECT, [job.id, job.attempt, os.getpid()])
        self._moment("paid")
        await anyio.sleep(self._task.seconds)

    async def aclose(self) -> None:
        if self._own is not None:
            await self._own.close()


def _watch_commits(moment: Moment) -> None:
    commit: Callable[[Transaction], Awaitable[None]] = Transaction.commit

    async def watched(self: Transaction) -> None:
        moment("committing")
        await commit(self)
        moment("committed")

    Transaction.commit = watched  # type: ignore[method-assign]


def run(task: Task) -> None:
    """Consume, in this process, until a signal or the end."""
    # Whatever it has to say was said by others that lived.
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    moment = Moment(task)
    _watch_commits(moment)

    def tell(event: Event) -> None:
        moment(type(event).__name__)

    consumer = Consumer(
        task.dsn,
        Effecting(task, moment),
        mode=task.mode,  # type: ignore[arg-type]
        batch_size=5,
        concurrency=task.concurrency,
        retry=RetryPolicy(max_attempts=50, first_delay=0.01, max_delay=0.05),
        maintenance=False,
        promote_interval=0.02,
        checkpoint_interval=0.05,
        drain_timeout=2.0,
        max_slot_losses=10_000,
        observers=[tell],
    )

    async def main() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, consumer.stop)
        await consumer.run(once=task.once)

    anyio.run(main)


_forks = multiprocessing.get_context("forkserver")
# Whatever takes time to import is imported once.
_forks.set_forkserver_preload(["tests.faults.effecting"])


def start(task: Task) -> Any:
    """A process that does it."""
    process = _forks.Process(target=run, args=(task,), daemon=True)
    process.start()
    return process
