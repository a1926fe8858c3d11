"""What becomes of the jobs of one pattern: its handlers, one after the other."""

from collections.abc import Callable, Sequence
from typing import Any

from pgcdc_outbox.consumer.handler import was_cancelled
from pgcdc_outbox.consumer.ports import Effects
from pgcdc_outbox.core.retry import Policy
from pgcdc_outbox.core.verdict import Raised, read
from pgcdc_outbox.errors import PayloadInvalid, RouteInvalid
from pgcdc_outbox.job import Job
from pgcdc_outbox.outcome import Done
from pgcdc_outbox.routing.pattern import Pattern
from pgcdc_outbox.routing.route import CONCURRENCY, Route, failure
from pgcdc_outbox.routing.scope import Scope
from pgcdc_outbox.routing.slots import Slots

Errors = dict[int, Exception]
"""Why jobs failed, by id."""


class Flow:
    """The handlers of one pattern, in the order in which they were registered.

    If one fails, the later ones do not run. One of them that is transactional
    makes all of them so, in one transaction. Raises `RouteInvalid` for handlers
    that contradict each other.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        _check(routes)
        self.routes = tuple(routes)
        self.pattern: Pattern = routes[0].pattern
        self.batch = routes[0].options.batch
        self.is_once = routes[0].options.delivery == "at_most_once"
        self.transactional = any(route.options.transactional for route in routes)
        self.retry: Policy | None = next(
            (route.options.retry for route in routes if route.options.retry is not None), None
        )
        self.concurrency = self._concurrency()
        self.slots = None if self.concurrency is None else Slots(self.concurrency)
        is_plain = len(routes) == 1 and routes[0].is_plain and not self.batch
        self.is_threaded = is_plain and not routes[0].signature.is_async
        """Whether a thread may go from job to job by itself."""
        self.name = routes[0].name
        self.call: Callable[[Job, Scope], Any] = routes[0].direct() if is_plain else self._perform
        """Call it with one job; what comes is to be awaited, unless `is_threaded`."""

    def _concurrency(self) -> int | None:
        if self.transactional:
            # There is one connection, and one part of its transaction at a time.
            return 1

        given = [each.options.concurrency for each in self.routes if each.options.concurrency]
        return min(given) if given else None if self.batch else CONCURRENCY

    async def _perform(self, job: Job, scope: Scope) -> Exception | None:
        """Run the handlers on one job."""
        # First of all: what cannot be decoded is not begun.
        payloads = [route.decode(job) for route in self.routes]
        if self.is_once:
            await scope.unit.begin_once([job])

        if not self.transactional:
            return await self._in_turn(job, payloads, scope)

        async with scope.unit.effects([job]) as effects:
            failed = await self._in_turn(job, payloads, await self._part(scope, effects))
            if failed is not None:
                raise failed  # for what was written to be undone

        return None

    async def _in_turn(self, job: Job, payloads: Sequence[Any], scope: Scope) -> Exception | None:
        for route, payload in zip(self.routes, payloads, strict=True):
            try:
                result = await route.perform(job, payload, scope)
            except Done:
                continue

            if (failed := failure(result, route.name)) is not None:
                return failed

        return None

    async def perform_batch(self, jobs: Sequence[Job], scope: Scope) -> Errors:
        """Run the handlers on jobs at once. Raises only our own cancellation."""
        errors: Errors = {}
        rows: list[tuple[Job, list[Any]]] = []
        for job in jobs:
            try:
                rows.append((job, [route.decode(job) for route in self.routes]))
            except PayloadInvalid as error:
                errors[job.id] = error

        if not rows:
            return errors

        try:
            await self._begin_batch(rows, scope, errors)
        except BaseException as error:
            if was_cancelled(error):
                raise

            left = [job for job, _ in rows if job.id not in errors]
            errors |= _raised(left, error)

        return errors

    async def _begin_batch(
        self, rows: Sequence[tuple[Job, list[Any]]], scope: Scope, errors: Errors
    ) -> None:
        jobs = [job for job, _ in rows]
        if self.is_once:
            await scope.unit.begin_once(jobs)

        if not self.transactional:
            await self._batch_in_turn(rows, scope, errors)
            return

        async with scope.unit.effects(jobs) as effects:
            await self._batch_in_turn(rows, await self._part(scope, effects), errors)

    async def _batch_in_turn(
        self, rows: Sequence[tuple[Job, list[Any]]], scope: Scope, errors: Errors
    ) -> None:
        for place, route in enumerate(self.routes):
            jobs = [job for job, _ in rows]
            payloads = [payloads[place] for _, payloads in rows]
            try:
                result = await route.perform(jobs, payloads, scope)
            except Done:
                if len(jobs) > 1:
                    raise

                continue

            errors |= {id_: told(error) for id_, error in read(result, jobs).items()}
            rows = [row for row in rows if row[0].id not in errors]
            if not rows:
                return

    async def _part(self, scope: Scope, effects: Effects) -> Scope:
        kinds = {kind for route in self.routes for kind in route.signature.connections}
        connections = {kind: await effects.connection(kind) for kind in kinds}
        return Scope(scope.unit, effects, connections)


def _raised(jobs: Sequence[Job], error: BaseException) -> Errors:
    """What an error of a whole call means for each of its jobs."""
    if len(jobs) == 1:
        return {jobs[0].id: told(error)}

    return {job.id: Raised(error, len(jobs)) for job in jobs}


def told(error: BaseException) -> Exception:
    """An error, as it may stand in the result of a handler: even `SystemExit` is one job's."""
    return error if isinstance(error, Exception) else Raised(error)


def _check(routes: Sequence[Route]) -> None:
    first, last = routes[0], routes[-1]
    if len(routes) == 1:
        return

    where = f"{last.name} and {first.name}, both for {first.pattern.text!r}"
    if any(route.function == last.function for route in routes[:-1]):
        raise RouteInvalid(
            f"{last.name} is registered twice for {last.pattern.text!r}",
            hint="Once is enough: a job would run it twice.",
        )

    if first.options.batch != last.options.batch:
        raise RouteInvalid(
            f"{where}: one takes batches, and the other one job at a time",
            hint="Register both with batch=True, or both without.",
        )

    if first.options.delivery != last.options.delivery:
        raise RouteInvalid(
            f"{where}: one is delivered at most once, and the other at least once",
            hint="Give both the same `delivery`; a job is repeated as a whole, or not at all.",
        )

    transactional = any(route.options.transactional for route in routes)
    if transactional and first.signature.is_async != last.signature.is_async:
        raise RouteInvalid(
            f"{where}: one is async and the other is not, and they share a transaction",
            hint="Make both async, or both sync.",
        )

    policies = [route.options.retry for route in routes if route.options.retry is not None]
    if any(policy != policies[0] for policy in policies):
        raise RouteInvalid(
            f"{where}: they have different retry policies, and a job is judged by one",
            hint="Give `retry` to one of them, or the same to both.",
        )
