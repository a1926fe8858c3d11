"""Parameters by annotation: what each is given, and what is refused when it is registered."""

from __future__ import annotations

import functools
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from pgcdc_outbox import Context, Job, Router
from pgcdc_outbox.errors import RouteInvalid
from tests.unit.routing.units import MemoryUnit, job, run

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForTypeCheckers


@dataclass
class Order:
    order: int


ORDER = b'{"order": 7}'


async def given(function: Any, *jobs: Job, **options: Any) -> Any:
    """Register it, and run it on jobs."""
    router = Router()
    router.on("t", **options)(function)
    unit = MemoryUnit()
    errors = await run(router, *(jobs or [job(1, payload=ORDER)]), unit=unit)
    assert errors == {}
    return unit


class TestGiving:
    async def test_by_annotation_in_any_order(self) -> None:
        seen: list[Any] = []

        @dataclass
        class Local:
            order: int

        async def handle(context: Context, order: Local, this: Job) -> None:
            seen.append((context.job is this, order, this.id))

        await given(handle)
        assert seen == [(True, Local(7), 1)]

    async def test_by_position_and_by_name(self) -> None:
        seen: list[Any] = []

        async def handle(order: Order, /, that: Job, *, context: Context, more: int = 5) -> None:
            seen.append((order.order, that.id, context.attempt, more))

        await given(handle)
        assert seen == [(7, 1, 1, 5)]

    async def test_without_annotation_it_is_the_payload(self) -> None:
        seen: list[Any] = []

        async def handle(order) -> None:  # type: ignore[no-untyped-def]
            seen.append(order)

        await given(handle)
        assert seen == [{"order": 7}]

    async def test_nothing_at_all(self) -> None:
        seen: list[str] = []
        await given(lambda: seen.append("called"), job(1, payload=b"not JSON"))
        assert seen == ["called"]

    async def test_lists_for_batches(self) -> None:
        seen: list[Any] = []

        async def handle(orders: list[Order], jobs: Sequence[Job], contexts: list[Context]) -> None:
            seen.append((orders, [each.id for each in jobs], [each.job.id for each in contexts]))

        await given(handle, job(1, payload=ORDER), job(2, payload=ORDER), batch=True)
        assert seen == [([Order(7), Order(7)], [1, 2], [1, 2])]

    @pytest.mark.parametrize("annotated", [list, Any, None])
    async def test_a_list_of_whatever(self, annotated: Any) -> None:
        seen: list[Any] = []

        def handle(orders: Any) -> None:
            seen.append(orders)

        handle.__annotations__ = {"orders": annotated} if annotated else {}
        await given(handle, job(1, payload=b"1"), job(2, payload=b'"a"'), batch=True)
        assert seen == [[1, "a"]]

    async def test_methods_partials_wrappers_and_objects(self) -> None:
        seen: list[Any] = []

        class Service:
            async def handle(self, order: Order) -> None:
                seen.append(order.order)

            async def __call__(self, order: Order) -> None:
                seen.append(order.order)

        def with_more(name: str, order: Order, *, more: int = 0) -> None:
            seen.append((name, order.order, more))

        def logged(function: Any) -> Any:
            @functools.wraps(function)
            async def wrapper(*args: Any, **kwargs: Any) -> Any:
                return await function(*args, **kwargs)

            return wrapper

        await given(Service().handle)
        await given(Service())
        await given(functools.partial(with_more, "name", more=3))
        await given(logged(Service().handle))
        assert seen == [7, 7, ("name", 7, 3), 7]

    async def test_a_sync_wrapper_around_an_async_function(self) -> None:
        seen: list[Any] = []

        async def handle(order: Order) -> None:
            seen.append(order.order)

        @functools.wraps(handle)
        def wrapper(*args: Any) -> Any:
            return handle(*args)

        await given(wrapper)
        await given(wrapper, timeout=5)
        assert seen == [7, 7]

    async def test_types_around_the_function_that_registers(self) -> None:
        seen: list[Any] = []

        @dataclass
        class Inner:
            order: int

        def register() -> Router:
            router = Router()

            @router.on("t")
            async def handle(order: Inner) -> None:
                seen.append(type(order) is Inner)

            return router

        assert await run(register(), job(1, payload=ORDER)) == {}
        assert seen == [True]

    @pytest.mark.parametrize(
        ("kind", "asynchronous"),
        [
            (psycopg.AsyncConnection, True),
            (psycopg.AsyncConnection[Any], True),
            (AsyncSession, True),
            (psycopg.Connection, False),
            (Session, False),
        ],
        ids=str,
    )
    async def test_connections(self, kind: Any, asynchronous: bool) -> None:
        async def handle(connection: Any, order: Order) -> None:
            connection.write((connection.kind, order.order))

        def handle_sync(connection: Any, order: Order) -> None:
            connection.write((connection.kind, order.order))

        chosen = handle if asynchronous else handle_sync
        chosen.__annotations__ = {"connection": kind, "order": Order}
        unit = await given(chosen, transactional=True)
        assert unit.written == [(getattr(kind, "__origin__", kind), 7)]


async def two_payloads(order: Order, other: Order) -> None: ...
async def unnamed(*args: Any) -> None: ...
async def telling(job) -> None: ...  # type: ignore[no-untyped-def]
async def defaulted(job: Job, order: Order = Order(1)) -> None: ...  # noqa: B008
async def unresolved(order: OnlyForTypeCheckers) -> None: ...
async def nowhere(order: Nowhere) -> None: ...  # type: ignore[name-defined] # noqa: F821
async def undecodable(order: Router) -> None: ...
async def inside(orders: dict[str, Router]) -> None: ...
async def yields(job: Job) -> AsyncIterator[int]:
    yield 1


def generates(job: Job) -> Iterator[int]:
    yield 1


async def a_list(jobs: list[Job]) -> None: ...
async def one(order: Order) -> None: ...
async def connected(connection: psycopg.AsyncConnection[Any]) -> None: ...
def connected_sync(connection: psycopg.AsyncConnection[Any]) -> None: ...
async def session_sync(session: Session) -> None: ...
async def by_asyncpg(connection: asyncpg.Connection) -> None: ...
async def by_engine(connection: sqlalchemy.Connection) -> None: ...


class Class:
    def __call__(self, job: Job) -> None: ...


class TestRefusing:
    """Nothing is left for the first delivery to find out."""

    @pytest.mark.parametrize(
        ("function", "options", "wrong", "remedy"),
        [
            (two_payloads, {}, "other would be a second payload, beside order", "Annotate one"),
            (unnamed, {}, "args takes any number", "Name the parameters"),
            (telling, {}, "job has no annotation", "job: Job"),
            (defaulted, {}, "order has a default", "Take its default away"),
            (unresolved, {}, "annotation of order cannot be resolved", "TYPE_CHECKING"),
            (nowhere, {}, "annotation of order cannot be resolved.*Nowhere", "run time"),
            (undecodable, {}, "cannot be a Router", "dataclass"),
            (inside, {}, "nothing can be decoded into Router", "dataclass"),
            (yields, {}, "is a generator", "must not yield"),
            (generates, {}, "is a generator", "must not yield"),
            (a_list, {}, "jobs asks for a list", "batch=True"),
            (one, {"batch": True}, "order is one Order", r"list\[Order\]"),
            (connected, {}, "not transactional", "transactional=True"),
            (connected_sync, {"transactional": True}, "cannot be used in a sync", "Connection"),
            (session_sync, {"transactional": True}, "cannot be used in an async", "AsyncSession"),
            (by_asyncpg, {"transactional": True}, "asyncpg.*cannot be given", "AsyncConnection"),
            (by_engine, {"transactional": True}, "sqlalchemy.*cannot be given", "AsyncSession"),
            (Class, {}, "is a class", "instance"),
            (5, {}, "cannot be called", "function"),
        ],
        ids=lambda value: getattr(value, "__name__", None),
    )
    def test_with_function_parameter_and_remedy(
        self, function: Any, options: Any, wrong: str, remedy: str
    ) -> None:
        with pytest.raises(RouteInvalid, match=wrong) as caught:
            Router().on("t", **options)(function)

        name = getattr(function, "__name__", type(function).__name__)
        assert str(caught.value).startswith(name)
        assert re.search(remedy, caught.value.hint), caught.value.hint

    def test_a_default_behind_the_star_stays(self) -> None:
        def handle(job: Job, *, dry_run: bool = False, **more: Any) -> None: ...

        Router().on("t")(handle)

    def test_the_return_annotation_does_not_matter(self) -> None:
        async def handle(order: Order) -> Nowhere: ...  # type: ignore[name-defined] # noqa: F821

        Router().on("t")(handle)
