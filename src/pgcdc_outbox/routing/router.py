"""`Router`: a handler made of functions for topics."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, Literal, TypeVar, get_args

from pgcdc_outbox.codec import Codec, check_codec
from pgcdc_outbox.consumer.ports import UnitOfWork
from pgcdc_outbox.core.retry import Policy, RetryPolicy
from pgcdc_outbox.errors import HandlerInvalid, RouteInvalid, SettingsError
from pgcdc_outbox.job import Job
from pgcdc_outbox.outcome import Dead, Retry
from pgcdc_outbox.routing.annotations import name_of, names_around
from pgcdc_outbox.routing.flow import Flow
from pgcdc_outbox.routing.middleware import Middleware
from pgcdc_outbox.routing.middleware import check as check_middleware
from pgcdc_outbox.routing.pattern import Pattern, join
from pgcdc_outbox.routing.policy import ByTopic
from pgcdc_outbox.routing.route import Delivery, Options, Route
from pgcdc_outbox.routing.running import Running
from pgcdc_outbox.routing.scope import Scope
from pgcdc_outbox.routing.signature import read
from pgcdc_outbox.routing.table import Table

F = TypeVar("F", bound=Callable[..., Any])
Unknown = Literal["dead", "retry", "drop"]

NO_HANDLER: Final = "no_handler"
"""The reason of a dead letter whose topic nobody handles."""

_LOGGER: Final = logging.getLogger("pgcdc_outbox.routing")


class Router:
    """Hands each job to the functions that are registered for its topic.

    It is a handler: give it to `Consumer`. ``prefix`` stands before the patterns
    of its routes, with a dot between. ``unknown`` says what becomes of a job
    whose topic no pattern fits: a dead letter with the reason ``no_handler``, a
    retry by the policy of the consumer, or, logged, nothing (``drop``).
    ``codecs`` decode content types that are not built in; ``middleware`` is
    called around every handler, the first one outermost.

    Raises `SettingsError` and `RouteInvalid` at once.
    """

    def __init__(
        self,
        prefix: str = "",
        *,
        unknown: Unknown = "dead",
        codecs: Sequence[Codec] = (),
        middleware: Sequence[Middleware] = (),
    ) -> None:
        if unknown not in get_args(Unknown):
            raise SettingsError(
                f"unknown: {unknown!r} is none of {', '.join(map(repr, get_args(Unknown)))}"
            )

        for codec in codecs:
            check_codec(codec)

        self.prefix = _prefix(prefix)
        self.unknown: Unknown = unknown
        self._codecs = tuple(codecs)
        self._middleware = check_middleware(middleware)
        self._table = Table()
        self._around: list[tuple[Router, str]] = []
        self._policy = ByTopic(self._table, RetryPolicy())

    def on(
        self,
        pattern: str,
        *,
        batch: bool = False,
        retry: Policy | None = None,
        timeout: timedelta | float | None = None,
        concurrency: int | None = None,
        transactional: bool = False,
        delivery: Delivery = "at_least_once",
        middleware: Sequence[Middleware] = (),
    ) -> Callable[[F], F]:
        """Register the function below for a topic, or for all that a pattern fits.

        A function gets one job at a time, or, with ``batch``, a list of them:
        what its parameters are annotated with says what of a job it is given.

        - ``retry``: the policy for its failures, in place of the consumer's;
        - ``timeout``: how long a call may take, a timedelta or seconds;
        - ``concurrency``: calls of it at the same time, 10 unless it takes batches;
        - ``transactional``: its effects commit with the outcome of the job, or not at all;
        - ``delivery``: ``at_most_once`` for what must not be done twice, come what may;
        - ``middleware``: called around it, inside that of the router.

        Raises `RouteInvalid`, naming the function, for a signature to which
        nothing could be given and for routes that contradict each other.
        """

        def register(function: F) -> F:
            self._register(
                function,
                pattern,
                Options(
                    batch=batch,
                    retry=retry,
                    timeout=_seconds(function, timeout),
                    concurrency=_concurrency(function, concurrency, transactional),
                    transactional=transactional,
                    delivery=_delivery(function, delivery, transactional),
                    middleware=(*self._middleware, *check_middleware(middleware)),
                    codecs=self._codecs,
                ),
            )
            return function

        return register

    def include_router(self, router: "Router", prefix: str = "") -> None:
        """Take in the routes of another router, also those that it will get later.

        The prefixes of this one, of the call and of the other stand before its
        patterns. What this router has of middleware stands around its handlers.
        Raises `RouteInvalid` for routes that contradict those that are here.
        """
        if router is self or router._has_inside(self):
            raise RouteInvalid("router: it would contain itself")

        if router.unknown not in ("dead", self.unknown):
            raise RouteInvalid(
                f"router: the one with prefix {router.prefix!r} says unknown={router.unknown!r}, "
                "but it is the outermost one that decides",
                hint="Give `unknown` to the outermost router.",
            )

        prefix = _prefix(prefix)
        for flow in router._table:
            for route in flow.routes:
                self._take_in(route, prefix)

        router._around.append((self, prefix))

    def policy(self, default: Policy) -> Policy:
        """What judges its failures: the policies of the routes, else this one.

        Raises `HandlerInvalid` if there are no routes at all.
        """
        if not self._table:
            raise HandlerInvalid(
                "router: it has no routes",
                hint="Import the modules that register handlers before the consumer is made.",
            )

        self._policy = ByTopic(self._table, default)
        return self._policy

    async def execute(
        self, jobs: Sequence[Job], unit: UnitOfWork
    ) -> Mapping[int, Exception] | None:
        """Run the handlers of these jobs. Returns what failed, by id."""
        find = self._table.find
        entries: list[tuple[Flow, Job]] = []
        strangers: list[Job] = []
        for job in jobs:
            flow = find(job.topic)
            if flow is None:
                strangers.append(job)
            else:
                entries.append((flow, job))

        running = Running(Scope(unit), self._policy.is_last)
        if entries:
            await running.run(entries)

        if strangers:
            running.errors.update(self._refuse(strangers))

        return running.errors or None

    def flow_of(self, topic: str) -> Flow | None:
        """What takes a topic, if anything."""
        return self._table.find(topic)

    @property
    def flows(self) -> Sequence[Flow]:
        """What is registered: the handlers of each pattern, the most specific first."""
        return sorted(self._table, key=lambda flow: flow.pattern.rank)

    def _refuse(self, jobs: Sequence[Job]) -> Mapping[int, Exception]:
        if self.unknown == "drop":
            for topic, count in Counter(job.topic for job in jobs).items():
                _LOGGER.warning("%d jobs dropped: no handler for the topic %r", count, topic)

            return {}

        if self.unknown == "retry":
            return {job.id: Retry(error=f"no handler for {job.topic!r}") for job in jobs}

        return {job.id: Dead(NO_HANDLER) for job in jobs}

    def _register(
        self,
        function: Callable[..., Any],
        pattern: str,
        options: Options,
    ) -> None:
        name = name_of(function)
        if not isinstance(pattern, str):
            raise RouteInvalid(
                f"{name}: a {type(pattern).__name__} is given as its pattern",
                hint='Write @router.on("order.created").',
            )

        signature = read(
            function,
            batch=options.batch,
            transactional=options.transactional,
            around=names_around(function),
        )
        self._add(Route(function, _pattern(name, self.prefix, pattern), signature, options))

    def _take_in(self, route: Route, prefix: str) -> None:
        pattern = _pattern(route.name, self.prefix, prefix, route.pattern.text)
        self._add(route.under(pattern, self._middleware, self._codecs))

    def _add(self, route: Route) -> None:
        self._offer(route)
        self._accept(route)

    def _offer(self, route: Route) -> None:
        """Raise if it, or any router around, cannot have it; nothing is changed by that."""
        known = self._table.get(route.pattern.text)
        Flow([*(known.routes if known else ()), route])
        for outer, prefix in self._around:
            pattern = _pattern(route.name, outer.prefix, prefix, route.pattern.text)
            outer._offer(route.under(pattern, outer._middleware, outer._codecs))

    def _accept(self, route: Route) -> None:
        known = self._table.get(route.pattern.text)
        self._table.put(Flow([*(known.routes if known else ()), route]))
        for outer, prefix in self._around:
            pattern = _pattern(route.name, outer.prefix, prefix, route.pattern.text)
            outer._accept(route.under(pattern, outer._middleware, outer._codecs))

    def _has_inside(self, router: "Router") -> bool:
        return any(outer is self or self._has_inside(outer) for outer, _ in router._around)

    def __repr__(self) -> str:
        return f"Router({self.prefix!r}, {len(self._table)} patterns)"


def _pattern(name: str, *parts: str) -> Pattern:
    try:
        return Pattern.parse(join(*parts))
    except ValueError as error:
        raise RouteInvalid(
            f"{name}: {error}", hint="Write words with dots between them: 'order.*', 'order.#'."
        ) from None


def _prefix(prefix: str) -> str:
    if not isinstance(prefix, str):
        raise SettingsError(f"prefix: a {type(prefix).__name__} is given", hint="Give text.")

    if prefix:
        try:
            Pattern.parse(prefix)
        except ValueError as error:
            raise SettingsError(
                f"prefix: {prefix!r}: {error}", hint="Write words with dots between them."
            ) from None

    return prefix


def _seconds(function: Any, timeout: timedelta | float | None) -> float | None:
    if timeout is None:
        return None

    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < 1e9:
        raise RouteInvalid(
            f"{name_of(function)}: timeout: {timeout!r} is no time above 0",
            hint="Give seconds or a timedelta; leave it out for no limit.",
        )

    return float(seconds)


def _concurrency(function: Any, concurrency: int | None, transactional: bool) -> int | None:
    if concurrency is None:
        return None

    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise RouteInvalid(
            f"{name_of(function)}: concurrency: {concurrency!r} is not a whole number from 1",
            hint="Leave it out for the default.",
        )

    if transactional and concurrency > 1:
        raise RouteInvalid(
            f"{name_of(function)}: concurrency: {concurrency} calls cannot share one transaction",
            hint="Leave it out, and raise the concurrency of the consumer: "
            "each of its calls has a transaction of its own.",
        )

    return concurrency


def _delivery(function: Any, delivery: Delivery, transactional: bool) -> Delivery:
    if delivery not in get_args(Delivery):
        raise RouteInvalid(
            f"{name_of(function)}: delivery: {delivery!r} is none of "
            f"{', '.join(map(repr, get_args(Delivery)))}"
        )

    if delivery == "at_most_once" and transactional:
        raise RouteInvalid(
            f"{name_of(function)}: it is transactional and delivered at most once",
            hint="What can be undone may be repeated: take one of them away.",
        )

    return delivery
