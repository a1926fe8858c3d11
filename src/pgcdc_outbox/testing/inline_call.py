"""Calling a handler where one stands: in this thread, and without a consumer around it."""

import asyncio
import inspect
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from pgcdc_outbox.consumer.handler import Handler
from pgcdc_outbox.consumer.ports import Effects
from pgcdc_outbox.errors import HandlerInvalid
from pgcdc_outbox.job import Job, NewJob
from pgcdc_outbox.postgres.producer.enqueue import check_many
from pgcdc_outbox.testing.inline_line import Line


class InlineHandler:
    """A handler as `Consumer` takes it."""

    def __init__(self, target: Any, line: Line) -> None:
        """Raises `HandlerInvalid` for what `Consumer` would not take either."""
        self._target = target
        self._unit = InlineUnit(line)
        execute = getattr(target, "execute", None)
        self._executes = callable(execute) and not inspect.isclass(target)
        if not self._executes:
            Handler(target, concurrency=1)

    def call(self, jobs: Sequence[Job]) -> Any:
        """Call it; if it is to be awaited, in an event loop of its own."""
        result = self._begin(jobs)
        if not inspect.isawaitable(result):
            return result

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(_awaited(result))

        if inspect.iscoroutine(result):
            result.close()

        raise RuntimeError(
            "InlineClient: the handler is async and an event loop runs here already; "
            "use AsyncInlineClient"
        )

    async def acall(self, jobs: Sequence[Job]) -> Any:
        """Call it, and await what is to be awaited."""
        result = self._begin(jobs)
        return await result if inspect.isawaitable(result) else result

    def _begin(self, jobs: Sequence[Job]) -> Any:
        if self._executes:
            return self._target.execute(jobs, self._unit)

        return getattr(self._target, "handle", self._target)(jobs)


class InlineUnit:
    """The unit of work of a call without a database."""

    consumer = "inline"
    schema = "outbox"
    instance = "inline"

    def __init__(self, line: Line) -> None:
        self._line = line

    def effects(self, jobs: Sequence[Job]) -> AbstractAsyncContextManager[Effects]:
        """There is no transaction to take part in."""
        raise HandlerInvalid(
            "an inline client has no database, so that a transactional handler cannot run",
            hint="Use the fixture `outbox`, and its `drain`.",
        )

    async def begin_once(self, jobs: Sequence[Job]) -> None:
        """Nothing to note: no crash comes in between."""

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[int]:
        """Keep the jobs for the next `flush`."""
        added, _ = self._line.add(check_many(jobs), waits=True)
        return [job.id for job in added]


async def _awaited(result: Any) -> Any:
    return await result
