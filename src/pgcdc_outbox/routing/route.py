"""One handler with its options, and how it is called."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal

import anyio
from anyio import CapacityLimiter
from msgspec import Struct, structs

from pgcdc_outbox.codec import Codec
from pgcdc_outbox.core.retry import Policy
from pgcdc_outbox.errors import ResultInvalid, RouteInvalid
from pgcdc_outbox.job import Job
from pgcdc_outbox.outcome import Done
from pgcdc_outbox.routing.annotations import NOTHING, name_of
from pgcdc_outbox.routing.decoding import Decoder
from pgcdc_outbox.routing.middleware import Call, Middleware, around
from pgcdc_outbox.routing.pattern import Pattern
from pgcdc_outbox.routing.scope import Scope
from pgcdc_outbox.routing.signature import Argument, Signature
from pgcdc_outbox.routing.threads import in_thread

Delivery = Literal["at_least_once", "at_most_once"]

CONCURRENCY = 10
"""Calls of one handler at the same time, unless its route says otherwise."""


class Options(Struct, frozen=True, kw_only=True):
    """What a route says beside the pattern and the function."""

    batch: bool = False
    retry: Policy | None = None
    timeout: float | None = None
    """Seconds."""
    concurrency: int | None = None
    transactional: bool = False
    delivery: Delivery = "at_least_once"
    middleware: tuple[Middleware, ...] = ()
    """Outermost first, those of routers included."""
    codecs: tuple[Codec, ...] = ()
    """The first that fits a content type decodes it."""


class Route:
    """A handler, registered for a pattern. Raises `RouteInvalid` for a type it cannot get."""

    def __init__(
        self,
        function: Callable[..., Any],
        pattern: Pattern,
        signature: Signature,
        options: Options,
    ) -> None:
        self.function = function
        self.name = name_of(function)
        self.pattern = pattern
        self.signature = signature
        self.options = options
        self._decoder = _decoder(self.name, signature, options.codecs)
        self._sources = [_source(each, self) for each in signature.arguments]
        self._names = [each.keyword for each in signature.arguments]
        self._by_position = not any(self._names)
        self._limiter: CapacityLimiter | None = None

    def under(
        self, pattern: Pattern, middleware: tuple[Middleware, ...], codecs: tuple[Codec, ...]
    ) -> "Route":
        """The same handler as part of a router around its own."""
        options = structs.replace(
            self.options,
            middleware=(*middleware, *self.options.middleware),
            codecs=(*self.options.codecs, *codecs),
        )
        return Route(self.function, pattern, self.signature, options)

    @property
    def is_plain(self) -> bool:
        """Whether a call is just a call: nothing stands around it."""
        options = self.options
        return not (
            options.middleware
            or options.timeout is not None
            or options.transactional
            or options.delivery == "at_most_once"
        )

    def decode(self, job: Job) -> Any:
        """The payload of a job as this handler wants it. Raises `PayloadInvalid`."""
        return None if self._decoder is None else self._decoder(job)

    def invoke(self, subject: Any, payload: Any, scope: Scope) -> Any:
        """Call the function with one job, or with the list that it gets as a batch."""
        values = [source(subject, payload, scope) for source in self._sources]
        if self._by_position:
            return self.function(*values)

        named = {name: value for name, value in zip(self._names, values, strict=True) if name}
        placed = [value for name, value in zip(self._names, values, strict=True) if not name]
        return self.function(*placed, **named)

    def direct(self) -> Callable[[Job, Scope], Any]:
        """The shortest way from one job to the call of a plain handler of single jobs."""
        function, decoder = self.function, self._decoder
        match [(each.kind, each.keyword) for each in self.signature.arguments]:
            case [("payload", None)] if decoder is not None:
                return lambda job, scope: function(decoder(job))
            case [("job", None)]:
                return lambda job, scope: function(job)
            case []:
                return lambda job, scope: function()
            case _:
                return lambda job, scope: self.invoke(job, self.decode(job), scope)

    async def perform(self, subject: Any, payload: Any, scope: Scope) -> Any:
        """Call it with all that stands around it: the limit of time, then the middleware.

        Raises `TimeoutError` when the time is over. A sync handler cannot be
        stopped then: its thread goes on.
        """
        timeout = self.options.timeout
        if timeout is None:
            return await self._through(subject, payload, scope)

        until = scope.until(datetime.now(UTC) + timedelta(seconds=timeout))
        with anyio.move_on_after(timeout):
            return await self._through(subject, payload, until)

        raise TimeoutError(f"{self.name} was not done within {timeout:g} s")

    async def _through(self, subject: Any, payload: Any, scope: Scope) -> Any:
        innermost = partial(self._innermost, subject, payload, scope)
        if not self.options.middleware:
            return await innermost(None)

        jobs = subject if self.options.batch else [subject]
        call = Call(
            handler=self.name,
            pattern=self.pattern.text,
            jobs=jobs,
            contexts=[scope.context(job, logger=self.module) for job in jobs],
        )
        return await around(self.options.middleware, innermost)(call)

    async def _innermost(self, subject: Any, payload: Any, scope: Scope, call: Call | None) -> Any:
        if self.signature.is_async:
            return await self.invoke(subject, payload, scope)

        return await in_thread(partial(self.invoke, subject, payload, scope), self.limiter())

    def limiter(self) -> CapacityLimiter:
        """Counts the threads of this handler, not those that everybody shares."""
        if self._limiter is None:
            self._limiter = CapacityLimiter(self.options.concurrency or 1000)

        return self._limiter

    @property
    def module(self) -> str:
        """The module of the function, after which its logger is named."""
        return str(getattr(self.function, "__module__", None) or __name__)


def failure(result: Any, name: str) -> Exception | None:
    """What a handler of single jobs says by what it returns; None if the job is done.

    Raises `ResultInvalid` for what says nothing: it must not pass for success.
    """
    if result is None or isinstance(result, Done):
        return None

    if isinstance(result, Exception):
        return result

    raise ResultInvalid(
        f"{name} returned a {type(result).__name__}",
        hint="A handler of single jobs returns None (done), or Done, Retry, Dead or Snooze.",
    )


def _decoder(name: str, signature: Signature, codecs: Sequence[Codec]) -> Decoder | None:
    if signature.payload is NOTHING:
        return None

    try:
        return Decoder(signature.payload, codecs)
    except Exception as error:
        (argument,) = (each for each in signature.arguments if each.kind == "payload")
        shown = getattr(argument.type, "__name__", None) or str(argument.type)
        raise RouteInvalid(
            f"{name}: the parameter for the payload cannot be a {shown}: {error}",
            hint="Use a dataclass, TypedDict, msgspec Struct, Pydantic model, a builtin, bytes, "
            "or a list or union of those; or Job.",
        ) from error


Source = Callable[[Any, Any, Scope], Any]


def _source(argument: Argument, route: Route) -> Source:
    """Where the value of one parameter comes from."""
    kind = argument.type
    match argument.kind:
        case "payload":
            return lambda subject, payload, scope: payload
        case "job":
            return lambda subject, payload, scope: subject
        case "connection":
            return lambda subject, payload, scope: scope.connections[kind]
        case "context" if route.options.batch:
            return lambda subject, payload, scope: [
                scope.context(job, logger=route.module) for job in subject
            ]
        case "context":
            return lambda subject, payload, scope: scope.context(subject, logger=route.module)
