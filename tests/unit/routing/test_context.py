"""What a handler and a middleware know of a job and its call."""

import logging
from typing import Any

import anyio
import pytest

from pgcdc_outbox import Context, Dead, Job, NewJob, Router
from pgcdc_outbox.errors import RouteInvalid
from pgcdc_outbox.routing.context import follow_on
from pgcdc_outbox.routing.middleware import Call, CallNext
from tests.unit.routing.units import MemoryUnit, job, run


class TestContext:
    async def test_it_tells_of_the_job(self, caplog: pytest.LogCaptureFixture) -> None:
        router, seen = Router(), list[Any]()

        @router.on("a.*", timeout=3600)
        async def handle(context: Context) -> None:
            seen.append((context.topic, context.attempt, context.key, dict(context.headers)))
            assert context.remaining is not None
            assert 3000 < context.remaining <= 3600
            context.logger.warning("look", extra={"more": 1})

        with caplog.at_level(logging.WARNING):
            this = job(7, "a.b", attempt=3, key="k", headers={"h": "v"})
            assert await run(router, this) == {}

        assert seen == [("a.b", 3, "k", {"h": "v"})]
        (record,) = caplog.records
        assert record.name == __name__
        fields = ("job_id", "topic", "attempt", "key", "more")
        assert [getattr(record, name) for name in fields] == [7, "a.b", 3, "k", 1]

    async def test_without_a_timeout_there_is_no_deadline(self) -> None:
        router, seen = Router(), list[Any]()

        @router.on("t")
        async def handle(context: Context) -> None:
            seen.append((context.deadline, context.remaining))

        await run(router, job(1))
        assert seen == [(None, None)]

    @pytest.mark.parametrize("asynchronous", [True, False])
    async def test_it_enqueues_what_follows(self, asynchronous: bool) -> None:
        router, unit, ids = Router(), MemoryUnit(), list[Any]()

        async def handle(context: Context) -> None:
            ids.append(await context.enqueue("a", topic="x", delay=5))
            ids.append(await context.enqueue_many([NewJob(payload=n) for n in (1, 2)]))

        def handle_sync(context: Context) -> None:
            ids.append(context.enqueue_sync("a", topic="x", delay=5))
            ids.append(context.enqueue_many_sync([NewJob(payload=n) for n in (1, 2)]))

        router.on("t")(handle if asynchronous else handle_sync)
        assert await run(router, job(9), unit=unit) == {}

        assert ids == [100, [100, 101]]
        assert [(each.payload, each.topic, each.delay) for each in unit.enqueued] == [
            ("a", "x", 5),
            (1, "default", None),
            (2, "default", None),
        ]
        assert {each.headers["causation-id"] for each in unit.enqueued if each.headers} == {"9"}


class TestHeaders:
    @pytest.mark.parametrize(
        ("cause", "given", "expected"),
        [
            ({}, None, {"correlation-id": "5", "causation-id": "5"}),
            ({"correlation-id": "1"}, None, {"correlation-id": "1", "causation-id": "5"}),
            (
                {"causation-id": "3", "correlation-id": "1"},
                {"own": "x"},
                {"correlation-id": "1", "causation-id": "5", "own": "x"},
            ),
            (
                {"correlation-id": "1", "traceparent": "t", "tracestate": "s", "other": "no"},
                {"traceparent": "mine"},
                {
                    "correlation-id": "1",
                    "causation-id": "5",
                    "traceparent": "mine",
                    "tracestate": "s",
                },
            ),
            ({"correlation-id": 7}, None, {"correlation-id": "5", "causation-id": "5"}),
            (
                {},
                {"correlation-id": "a", "causation-id": "b"},
                {"correlation-id": "a", "causation-id": "b"},
            ),
        ],
    )
    def test_they_are_inherited_and_explicit_ones_win(
        self, cause: Any, given: Any, expected: Any
    ) -> None:
        new = NewJob(payload=1, topic="x", key="k", headers=given)
        made = follow_on(job(5, headers=cause), new)
        assert made.headers == expected
        assert (made.payload, made.topic, made.key) == (1, "x", "k")


class TestMiddleware:
    @pytest.mark.parametrize("asynchronous", [True, False])
    async def test_it_is_around_the_call_outermost_first(self, asynchronous: bool) -> None:
        diary: list[str] = []

        def noting(name: str) -> Any:
            async def middleware(call: Call, call_next: CallNext) -> Any:
                diary.append(f"{name} before {call.handler.rpartition('.')[2]} {call.job.id}")
                try:
                    return await call_next(call)
                finally:
                    diary.append(f"{name} after")

            return middleware

        outer = Router(middleware=[noting("outer")])
        inner = Router("a", middleware=[noting("inner"), noting("inner 2")])
        outer.include_router(inner)

        async def handle(job: Job) -> None:
            diary.append("call")

        def handle_sync(job: Job) -> None:
            diary.append("call")

        inner.on("t", middleware=[noting("route")])(handle if asynchronous else handle_sync)
        assert await run(outer, job(1, "a.t")) == {}

        name = "handle" if asynchronous else "handle_sync"
        names = ["outer", "inner", "inner 2", "route"]
        assert diary == [
            *(f"{each} before {name} 1" for each in names),
            "call",
            *(f"{each} after" for each in reversed(names)),
        ]

    async def test_it_may_answer_itself_and_call_again(self) -> None:
        calls: list[int] = []

        async def twice(call: Call, call_next: CallNext) -> Any:
            if call.context.attempt > 1:
                return Dead("not again")

            try:
                return await call_next(call)
            except ValueError:
                return await call_next(call)

        router = Router(middleware=[twice])

        @router.on("t")
        async def handle(this: Job) -> None:
            calls.append(this.id)
            if len(calls) == 1:
                raise ValueError

        errors = await run(router, job(1), job(2, attempt=2))
        assert calls == [1, 1]
        assert {id_: repr(error) for id_, error in errors.items()} == {2: "Dead('not again')"}

    async def test_around_a_batch_it_sees_all_jobs(self) -> None:
        seen: list[Any] = []

        async def look(call: Call, call_next: CallNext) -> Any:
            seen.append(([each.id for each in call.jobs], len(call.contexts), call.pattern))
            return await call_next(call)

        router = Router(middleware=[look])

        @router.on("#", batch=True)
        def handle(jobs: list[Job]) -> None: ...

        assert await run(router, job(1), job(2)) == {}
        assert seen == [([1, 2], 2, "#")]

    async def test_the_limit_of_time_is_about_it_too(self) -> None:
        async def stuck(call: Call, call_next: CallNext) -> Any:
            await anyio.sleep_forever()

        router = Router(middleware=[stuck])

        @router.on("t", timeout=0.01)
        async def handle(job: Job) -> None: ...

        assert isinstance((await run(router, job(1)))[1], TimeoutError)

    def test_what_cannot_be_one_is_refused(self) -> None:
        def sync(call: Call, call_next: CallNext) -> Any: ...
        async def one(call: Call) -> Any: ...

        for wrong in (sync, one):
            with pytest.raises(RouteInvalid, match=rf"middleware .*{wrong.__name__}"):
                Router(middleware=[wrong])
