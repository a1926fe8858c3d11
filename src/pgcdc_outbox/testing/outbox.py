"""An outbox in the hands of a test: enqueue, look, drain, let time pass."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import cached_property
from types import TracebackType
from typing import Any, Self

import psycopg

from pgcdc_outbox.postgres.producer.client import AsyncClient, Client
from pgcdc_outbox.testing.draining import Drain
from pgcdc_outbox.testing.enqueued import EnqueuedJob, jobs_in, jobs_in_async
from pgcdc_outbox.testing.expectation import Expectation
from pgcdc_outbox.testing.report import FailedJob, Report
from pgcdc_outbox.testing.store import Store
from pgcdc_outbox.testing.tap import Script


class Outbox:
    """A migrated outbox that belongs to a test while it runs.

    The fixture ``outbox`` gives one. Made by hand it takes the DSN of a database
    in which `migrate` was run, and changes nothing until `clean` is called.
    """

    def __init__(self, dsn: str, *, schema: str = "outbox") -> None:
        self.dsn = dsn
        self.schema = schema
        self.client = Client(dsn, schema=schema)
        self._store = Store(dsn, schema)

    @cached_property
    def async_client(self) -> AsyncClient:
        """A client that belongs to no event loop: it connects anew for each call without tx."""
        return AsyncClient(_Connecting(self.dsn), schema=self.schema)

    def close(self) -> None:
        """Close its connections."""
        self.client.close()
        self._store.close()

    def clean(self) -> None:
        """Remove every job and every trace of consumers; ids begin at 1, and it is now again.

        Other tables are left alone. Raises `NotClean` if a consumer still runs,
        or a transaction that used the outbox is still open.
        """
        self._store.clean()

    # What was enqueued.

    def jobs(self, topic: str | None = None, *, tx: Any = None) -> list[EnqueuedJob]:
        """Every job that was enqueued, also those that were executed since, by id.

        With ``tx`` (what `Client.enqueue` takes) also the uncommitted ones of
        that transaction.
        """
        store = self._store
        found = store.jobs() if tx is None else jobs_in(tx, store.schema, store.travelled)
        return [job for job in found if topic in (None, job.topic)]

    async def ajobs(self, topic: str | None = None, *, tx: Any = None) -> list[EnqueuedJob]:
        """The same with a ``tx`` that `AsyncClient.enqueue` takes."""
        if tx is None:
            return self.jobs(topic)

        found = await jobs_in_async(tx, self.schema, self._store.travelled)
        return [job for job in found if topic in (None, job.topic)]

    def assert_enqueued(
        self,
        *,
        topic: str | None = None,
        payload: Any = ...,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        count: int | None = None,
        tx: Any = None,
    ) -> list[EnqueuedJob]:
        """Fail unless a job was enqueued that has all this; return those that have.

        ``payload`` and ``headers`` need only be part of what is there: see
        `testing.matching`. With ``count`` it must be so many jobs. ``tx`` is
        that of `jobs`.
        """
        __tracebackhide__ = True
        expected = Expectation(topic=topic, payload=payload, key=key, headers=headers)
        return expected.found(self.jobs(tx=tx), count)

    async def aassert_enqueued(
        self,
        *,
        topic: str | None = None,
        payload: Any = ...,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        count: int | None = None,
        tx: Any = None,
    ) -> list[EnqueuedJob]:
        """The same with a ``tx`` that `AsyncClient.enqueue` takes."""
        __tracebackhide__ = True
        expected = Expectation(topic=topic, payload=payload, key=key, headers=headers)
        return expected.found(await self.ajobs(tx=tx), count)

    def assert_not_enqueued(
        self,
        *,
        topic: str | None = None,
        payload: Any = ...,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        tx: Any = None,
    ) -> None:
        """Fail if a job was enqueued that has all this; without arguments, if any was."""
        __tracebackhide__ = True
        expected = Expectation(topic=topic, payload=payload, key=key, headers=headers)
        expected.not_found(self.jobs(tx=tx))

    # What becomes of it.

    def drain(
        self,
        handler: Any,
        *,
        name: str = "default",
        max_jobs: int | None = None,
        until_empty: bool = True,
        ahead: timedelta = timedelta(0),
        deliver_twice: bool = False,
        interrupt_after: int | None = None,
        timeout: float = 60.0,
        **consumer_settings: Any,
    ) -> Report:
        """Run the real consumer until everything that is ready is settled; tell what it did.

        That includes what the handler enqueues, and retries that are due. It
        polls the table, unless ``mode`` says otherwise; ``consumer_settings``
        are those of `Consumer`. The handler is closed in the end.

        - ``max_jobs``: stop after so many executions; jobs come one by one;
        - ``until_empty``: False for a single run over what is there now;
        - ``ahead``: let so much time pass, from one job that falls due to the
          next, so that schedules and retries of that time run too;
        - ``deliver_twice``: lose the outcome of the first call of each job, as
          a process does that dies then, so that the job comes again;
        - ``interrupt_after``: end like that after so many executions;
        - ``timeout``: seconds after which it fails, with `DrainTimeout`.

        Not for a test that is a coroutine: use `adrain` there.
        """
        _refuse_loop()
        return asyncio.run(
            self.adrain(
                handler,
                name=name,
                max_jobs=max_jobs,
                until_empty=until_empty,
                ahead=ahead,
                deliver_twice=deliver_twice,
                interrupt_after=interrupt_after,
                timeout=timeout,
                **consumer_settings,
            )
        )

    async def adrain(
        self,
        handler: Any,
        *,
        name: str = "default",
        max_jobs: int | None = None,
        until_empty: bool = True,
        ahead: timedelta = timedelta(0),
        deliver_twice: bool = False,
        interrupt_after: int | None = None,
        timeout: float = 60.0,
        **consumer_settings: Any,
    ) -> Report:
        """The same, awaited."""
        _refuse_less_than_one(max_jobs=max_jobs, interrupt_after=interrupt_after)
        script = Script(
            max_jobs=max_jobs, interrupt_after=interrupt_after, deliver_twice=deliver_twice
        )
        drain = Drain(self._store, handler, name=name, script=script, settings=consumer_settings)
        return await drain.run(ahead=ahead, until_empty=until_empty, timeout=timeout)

    def failed(self, name: str = "default") -> list[FailedJob]:
        """The jobs of a consumer that wait for their next attempt, by id."""
        return [job for job in self._store.failed(name) if job.reason is None]

    def dead(self, name: str = "default") -> list[FailedJob]:
        """The dead letters of a consumer, by id."""
        return [job for job in self._store.failed(name) if job.reason is not None]

    # Time.

    def travel(self, by: timedelta) -> None:
        """Let time pass: what waits for a time waits for so much less of it.

        Nothing runs by itself; `drain` then finds what is due.
        """
        self._store.travel(by)

    def now(self) -> datetime:
        """The time in this outbox: it stands still, but for `travel`."""
        return self._store.now()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Connecting:
    """In place of a pool: a new connection each time, which no loop has to close."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        async with await psycopg.AsyncConnection.connect(self._dsn) as connection:
            yield connection


def _refuse_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return

    raise RuntimeError("drain: an event loop runs here already; use `await outbox.adrain(...)`")


def _refuse_less_than_one(**given: int | None) -> None:
    for field, value in given.items():
        if value is not None and value < 1:
            raise ValueError(f"{field}: {value!r} is not a whole number from 1")
