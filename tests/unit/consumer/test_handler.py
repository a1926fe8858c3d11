"""The user's code: what is accepted, and how it is called."""

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any

import anyio
import pytest

from pgcdc_outbox.consumer.handler import Handler, was_cancelled
from pgcdc_outbox.errors import HandlerInvalid
from pgcdc_outbox.job import Job
from tests.unit.consumer.fakes import PATIENCE, jobs, until

JOBS = jobs(2)


class Custom(BaseException):
    """What some libraries make of it."""


class TestCalling:
    async def test_a_sync_function_runs_off_the_thread_of_the_loop(self) -> None:
        seen = []

        def handle(jobs: Sequence[Job]) -> str:
            seen.append((threading.get_ident(), jobs))
            return "result"

        assert await Handler(handle, concurrency=1)(JOBS) == "result"
        ((thread, given),) = seen
        assert thread != threading.get_ident()
        assert given is JOBS

    async def test_an_async_function_runs_on_it(self) -> None:
        async def handle(jobs: Sequence[Job]) -> int:
            return threading.get_ident()

        assert await Handler(handle, concurrency=1)(JOBS) == threading.get_ident()

    async def test_a_sync_function_may_return_an_awaitable(self) -> None:
        async def inner(jobs: Sequence[Job]) -> int:
            return threading.get_ident()

        def handle(jobs: Sequence[Job]) -> Awaitable[int]:
            return inner(jobs)

        assert await Handler(handle, concurrency=1)(JOBS) == threading.get_ident()

    async def test_an_object_is_called_by_its_method(self) -> None:
        class Object:
            def handle(self, jobs: Sequence[Job]) -> int:
                return threading.get_ident()

            def __call__(self, jobs: Sequence[Job]) -> None:
                raise AssertionError("`handle` goes first")

        assert await Handler(Object(), concurrency=1)(JOBS) != threading.get_ident()

    async def test_its_method_may_be_async(self) -> None:
        class Object:
            async def handle(self, jobs: Sequence[Job]) -> int:
                return threading.get_ident()

        assert await Handler(Object(), concurrency=1)(JOBS) == threading.get_ident()

    async def test_an_object_may_be_called_itself(self) -> None:
        class Callable_:  # noqa: N801
            async def __call__(self, jobs: Sequence[Job]) -> int:
                return threading.get_ident()

        assert await Handler(Callable_(), concurrency=1)(JOBS) == threading.get_ident()

    @pytest.mark.parametrize("is_async", [True, False])
    async def test_arguments_may_be_given_beforehand(self, is_async: bool) -> None:
        async def on_the_loop(first: int, jobs: Sequence[Job], *, more: int) -> int:
            return first + len(jobs) + more

        def off_the_loop(first: int, jobs: Sequence[Job], *, more: int) -> int:
            return first + len(jobs) + more

        handle = functools.partial(on_the_loop if is_async else off_the_loop, 10, more=100)

        assert await Handler(handle, concurrency=1)(JOBS) == 112

    async def test_so_many_sync_calls_run_at_the_same_time(self) -> None:
        barrier = threading.Barrier(3, timeout=PATIENCE)
        handler = Handler(lambda jobs: barrier.wait(), concurrency=3)

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(handler, JOBS)

    async def test_it_can_be_used_in_one_loop_after_the_other(self) -> None:
        handler = Handler(lambda jobs: len(jobs), concurrency=1)

        def elsewhere() -> Any:
            return anyio.run(handler, JOBS)

        assert await handler(JOBS) == 2
        assert await anyio.to_thread.run_sync(elsewhere) == 2


class TestRaising:
    """Whatever the handler raises comes out as it is."""

    errors = pytest.mark.parametrize(
        "error",
        [
            ValueError("no"),
            SystemExit(3),
            KeyboardInterrupt(),
            Custom("no"),
            asyncio.CancelledError("invented"),
            TimeoutError(),
        ],
        ids=lambda error: type(error).__name__,
    )

    @errors
    async def test_from_a_sync_handler(self, error: BaseException) -> None:
        def handle(jobs: Sequence[Job]) -> None:
            raise error

        with pytest.raises(type(error)) as caught:
            await Handler(handle, concurrency=1)(JOBS)

        assert caught.value is error
        assert not was_cancelled(caught.value)

    @errors
    async def test_from_an_async_handler(self, error: BaseException) -> None:
        async def handle(jobs: Sequence[Job]) -> None:
            await anyio.lowlevel.checkpoint()
            raise error

        with pytest.raises(type(error)) as caught:
            await Handler(handle, concurrency=1)(JOBS)

        assert caught.value is error
        assert not was_cancelled(caught.value)

    async def test_stop_iteration_does_not_pass_for_a_result(self) -> None:
        def handle(jobs: Sequence[Job]) -> None:
            raise StopIteration

        with pytest.raises(RuntimeError, match="StopIteration"):
            await Handler(handle, concurrency=1)(JOBS)


class TestCancelling:
    async def test_our_own_cancellation_is_known(self) -> None:
        verdicts = []

        async def handle(jobs: Sequence[Job]) -> None:
            await anyio.sleep_forever()

        with anyio.CancelScope() as scope:
            scope.cancel()
            try:
                await Handler(handle, concurrency=1)(JOBS)
            except BaseException as error:
                verdicts.append(was_cancelled(error))
                raise

        assert verdicts == [True]
        assert scope.cancelled_caught

    async def test_an_error_during_our_cancellation_is_not_taken_for_it(self) -> None:
        verdicts = []
        with anyio.CancelScope() as scope:
            scope.cancel()
            verdicts.append(was_cancelled(ValueError()))

        assert verdicts == [False]

    async def test_a_thread_is_left_behind_and_counted(self) -> None:
        started, go_on = threading.Event(), threading.Event()

        def handle(jobs: Sequence[Job]) -> None:
            started.set()
            go_on.wait(PATIENCE)

        handler = Handler(handle, concurrency=1)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(handler, JOBS)
                await until(started.is_set)
                assert handler.threads == 1
                group.cancel_scope.cancel()

            assert handler.threads == 1, "it cannot be stopped"
        finally:
            go_on.set()

        await until(lambda: handler.threads == 0)


class TestClosing:
    @pytest.mark.parametrize("name", ["close", "aclose"])
    async def test_an_object_is_closed(self, name: str) -> None:
        closed = []

        async def aclose(self: Any) -> None:
            closed.append("async")

        def close(self: Any) -> None:
            closed.append("sync")

        def handle(self: Any, jobs: Sequence[Job]) -> None: ...

        method = aclose if name == "aclose" else close
        target = type("Target", (), {"handle": handle, name: method})()

        await Handler(target, concurrency=1).close()

        assert closed == ["async" if name == "aclose" else "sync"]

    async def test_close_may_be_async_and_aclose_goes_first(self) -> None:
        closed = []

        class Target:
            async def handle(self, jobs: Sequence[Job]) -> None: ...

            async def aclose(self) -> None:
                closed.append("aclose")

            async def close(self) -> None:
                closed.append("close")

        await Handler(Target(), concurrency=1).close()

        assert closed == ["aclose"]

    async def test_a_function_needs_no_closing(self) -> None:
        async def handle(jobs: Sequence[Job]) -> None: ...

        await Handler(handle, concurrency=1).close()


async def with_two(jobs: Sequence[Job], more: int) -> None: ...
def with_none() -> None: ...
def by_name(*, jobs: Sequence[Job]) -> None: ...
def by_name_too(jobs: Sequence[Job], *, more: int) -> None: ...
async def yields(jobs: Sequence[Job]) -> AsyncIterator[int]:
    yield 1


class ByClass:
    def handle(self, jobs: Sequence[Job]) -> None: ...


class ByCall:
    def __call__(self, jobs: Sequence[Job]) -> None: ...


class Forgetful:
    def handle(self) -> None: ...


class Yielding:
    async def handle(self, jobs: Sequence[Job]) -> AsyncIterator[int]:
        yield 1


class Optional:
    def handle(self, jobs: Sequence[Job] = ()) -> None: ...


class TestRefusing:
    """What cannot be called with one batch is refused when it is given, by name."""

    @pytest.mark.parametrize(
        ("target", "name"),
        [
            (with_two, "with_two"),
            (with_none, "with_none"),
            (by_name, "by_name"),
            (by_name_too, "by_name_too"),
            (yields, "yields"),
            (ByClass, "ByClass"),
            (ByCall, "ByCall"),
            (Optional, "Optional"),
            (Forgetful(), "Forgetful.handle"),
            (Yielding(), "Yielding.handle"),
            (object(), "object"),
            (None, "NoneType"),
            ("handle", "str"),
            (Job(1, "t", b""), "Job"),
        ],
    )
    def test_it_is_named(self, target: Any, name: str) -> None:
        with pytest.raises(HandlerInvalid, match=name) as caught:
            Handler(target, concurrency=1)

        assert str(caught.value).startswith("handler: ")
        assert "def handle(jobs)" in caught.value.hint

    @pytest.mark.parametrize(
        "target",
        [
            lambda jobs: None,
            lambda jobs, more=1: None,
            lambda *jobs: None,
            lambda jobs, **more: None,
            ByClass(),
            ByCall(),
            ByClass().handle,
            print,
            len,
        ],
    )
    def test_whatever_can_be_called_is_accepted(self, target: Any) -> None:
        Handler(target, concurrency=1)
