"""Functions around the call of a handler."""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from msgspec import Struct

from pgcdc_outbox.errors import RouteInvalid
from pgcdc_outbox.job import Job
from pgcdc_outbox.routing.annotations import name_of
from pgcdc_outbox.routing.context import Context


class Call(Struct, frozen=True):
    """One call of one handler, as a middleware sees it."""

    handler: str
    """The name of the function."""
    pattern: str
    """The pattern it is registered for."""
    jobs: Sequence[Job]
    """The jobs: one, unless the handler takes batches."""
    contexts: Sequence[Context]
    """Their contexts, in the same order."""

    @property
    def job(self) -> Job:
        """The job, or the first of the batch."""
        return self.jobs[0]

    @property
    def context(self) -> Context:
        """Its context."""
        return self.contexts[0]


CallNext = Callable[[Call], Awaitable[Any]]
"""Goes on to the next middleware, and in the end to the handler; gives what it returned."""

Middleware = Callable[[Call, CallNext], Awaitable[Any]]
"""Is called in place of the handler, and may call it, or not, or again.

What it returns or raises counts as the handler's.
"""


def check(middleware: Sequence[Middleware]) -> tuple[Middleware, ...]:
    """The middleware, outermost first. Raises `RouteInvalid`."""
    for each in middleware:
        call = each if inspect.isroutine(each) else getattr(each, "__call__", each)  # noqa: B004
        if not inspect.iscoroutinefunction(each) and not inspect.iscoroutinefunction(call):
            raise RouteInvalid(
                f"middleware {name_of(each)} is not async",
                hint="Write `async def middleware(call, call_next): return await call_next(call)`.",
            )

        try:
            inspect.signature(each).bind(None, None)
        except TypeError as error:
            raise RouteInvalid(
                f"middleware {name_of(each)} cannot be called with two arguments: {error}",
                hint="Write `async def middleware(call, call_next): ...`.",
            ) from None

    return tuple(middleware)


def around(middleware: Sequence[Middleware], innermost: CallNext) -> CallNext:
    """One function that goes through all of them, the first one outermost."""
    step = innermost
    for each in reversed(middleware):
        step = partial(_through, each, step)

    return step


async def _through(middleware: Middleware, step: CallNext, call: Call) -> Any:
    return await middleware(call, step)
