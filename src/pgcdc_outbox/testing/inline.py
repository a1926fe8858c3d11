"""Clients for unit tests: no server, and the handler is called where the job is enqueued.

They check what they are given as the real ones do, because they are the real ones up to
the moment at which a row would be inserted. What they do not have is a database: no
transaction, no rollback but the one that a test asks for, no clock, no other process.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pgcdc_outbox.core.retry import Policy
from pgcdc_outbox.postgres.producer.client import AsyncClient, Client
from pgcdc_outbox.postgres.producer.enqueue import MAX_PAYLOAD_BYTES, Row
from pgcdc_outbox.postgres.producer.handles.port import AsyncHandle, Handle
from pgcdc_outbox.testing.enqueued import EnqueuedJob
from pgcdc_outbox.testing.expectation import Expectation
from pgcdc_outbox.testing.inline_call import InlineHandler
from pgcdc_outbox.testing.inline_line import DeadJob, Line, drive, drive_async


class _Inline:
    """What both clients tell of the jobs they were given."""

    _line: Line

    @property
    def jobs(self) -> list[EnqueuedJob]:
        """Every job that was enqueued, in order, without those that were discarded."""
        return list(self._line.jobs)

    @property
    def waiting(self) -> list[EnqueuedJob]:
        """Those that no handler has got: of a ``tx``, or for later."""
        return list(self._line.waiting)

    @property
    def dead(self) -> list[DeadJob]:
        """Those that ``retry`` gave up."""
        return list(self._line.dead)

    def discard(self) -> None:
        """Forget the jobs that were enqueued with a ``tx`` and not flushed: it is rolled back."""
        self._line.discard()

    def assert_enqueued(
        self,
        *,
        topic: str | None = None,
        payload: Any = ...,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        count: int | None = None,
    ) -> list[EnqueuedJob]:
        """Fail unless a job was enqueued that has all this, as `Outbox.assert_enqueued`."""
        __tracebackhide__ = True
        expected = Expectation(topic=topic, payload=payload, key=key, headers=headers)
        return expected.found(self.jobs, count)

    def assert_not_enqueued(
        self,
        *,
        topic: str | None = None,
        payload: Any = ...,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Fail if a job was enqueued that has all this; without arguments, if any was."""
        __tracebackhide__ = True
        expected = Expectation(topic=topic, payload=payload, key=key, headers=headers)
        expected.not_found(self.jobs)


class InlineClient(_Inline, Client):
    """In place of `Client`, without a server.

    Jobs enqueued without ``tx`` are handled before ``enqueue`` returns. Those
    with a ``tx``, which may be anything, wait for `flush`, which stands for the
    commit, and those for later for ``flush(later=True)``. Without a handler
    jobs are only kept, to be looked at.

    What the handler raises, or returns for a job, is raised by ``enqueue`` or
    `flush`. With ``retry``, a policy, a job that failed is handled again
    at once, without its delay, until it is done or `dead`.
    """

    def __init__(
        self,
        handler: Any = None,
        *,
        retry: Policy | None = None,
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
    ) -> None:
        super().__init__(max_payload_bytes=max_payload_bytes)
        self._line = Line(retry)
        self._handler = None if handler is None else InlineHandler(handler, self._line)

    def flush(self, *, later: bool = False) -> None:
        """Handle what waits for its commit; with ``later`` also what is for a later time."""
        while jobs := self._line.take(later=later):
            self._run(jobs)

    def _handle(self, tx: Any) -> Handle:
        return _Entry(self, waits=tx is not None)

    def _run(self, jobs: Sequence[EnqueuedJob]) -> None:
        if self._handler is not None:
            drive(self._line.course(jobs), self._handler.call)


class AsyncInlineClient(_Inline, AsyncClient):
    """In place of `AsyncClient`, without a server. As `InlineClient`, awaited."""

    def __init__(
        self,
        handler: Any = None,
        *,
        retry: Policy | None = None,
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
    ) -> None:
        super().__init__(max_payload_bytes=max_payload_bytes)
        self._line = Line(retry)
        self._handler = None if handler is None else InlineHandler(handler, self._line)

    async def flush(self, *, later: bool = False) -> None:
        """Handle what waits for its commit; with ``later`` also what is for a later time."""
        while jobs := self._line.take(later=later):
            await self._run(jobs)

    def _handle(self, tx: Any) -> AsyncHandle:
        return _AsyncEntry(self, waits=tx is not None)

    async def _run(self, jobs: Sequence[EnqueuedJob]) -> None:
        if self._handler is not None:
            await drive_async(self._line.course(jobs), self._handler.acall)


class _Entry:
    """Where rows of an inline client end up."""

    def __init__(self, client: InlineClient, *, waits: bool) -> None:
        self._client = client
        self._waits = waits

    def insert(self, row: Row) -> int:
        return self.insert_many([row])[0]

    def insert_many(self, rows: Sequence[Row]) -> list[int]:
        jobs, ready = self._client._line.add(rows, waits=self._waits)
        if ready:
            self._client._run(ready)

        return [job.id for job in jobs]


class _AsyncEntry:
    """The same, awaited."""

    def __init__(self, client: AsyncInlineClient, *, waits: bool) -> None:
        self._client = client
        self._waits = waits

    async def insert(self, row: Row) -> int:
        return (await self.insert_many([row]))[0]

    async def insert_many(self, rows: Sequence[Row]) -> list[int]:
        jobs, ready = self._client._line.add(rows, waits=self._waits)
        if ready:
            await self._client._run(ready)

        return [job.id for job in jobs]
