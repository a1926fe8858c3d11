"""A batch of jobs through a router: order of a key, concurrency, isolation, cancelling."""

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import anyio
import anyio.from_thread
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from pgcdc_outbox import Context, Dead, Done, Job, Retry, RetryPolicy, Router
from pgcdc_outbox.core.verdict import Raised, judge
from pgcdc_outbox.errors import ResultInvalid
from pgcdc_outbox.routing import running
from pgcdc_outbox.routing.slots import Slots
from tests.unit.consumer.fakes import PATIENCE, until
from tests.unit.routing.units import MemoryUnit, job, run


class Gauge:
    """How many calls there are at a time, and were at most."""

    def __init__(self) -> None:
        self.now = self.most = self.total = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.now += 1
            self.total += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self.now -= 1


class TestConcurrency:
    @pytest.mark.parametrize(("given", "expected"), [(None, 10), (1, 1), (3, 3), (100, 40)])
    async def test_so_many_calls_run_at_the_same_time(self, given: Any, expected: int) -> None:
        router, gauge, go = Router(), Gauge(), anyio.Event()

        @router.on("t", concurrency=given)
        async def handle(job: Job) -> None:
            with gauge:
                await go.wait()

        async with anyio.create_task_group() as group:
            group.start_soon(run, router, *(job(n) for n in range(40)))
            await until(lambda: gauge.now == expected)
            await anyio.wait_all_tasks_blocked()
            assert gauge.now == expected
            go.set()

        assert (gauge.most, gauge.total) == (expected, 40)

    async def test_of_all_batches_together(self) -> None:
        router, gauge, go = Router(), Gauge(), anyio.Event()

        @router.on("t", concurrency=3)
        async def handle(job: Job) -> None:
            with gauge:
                await go.wait()

        async with anyio.create_task_group() as group:
            for batch in range(3):
                group.start_soon(run, router, *(job(10 * batch + n) for n in range(5)))

            await until(lambda: gauge.now == 3)
            await anyio.wait_all_tasks_blocked()
            go.set()

        assert (gauge.most, gauge.total) == (3, 15)

    async def test_a_batch_does_not_wait_for_a_slot_that_it_does_not_need(self) -> None:
        """Its helper stands behind another batch, and there is nothing left to help with."""
        router, go = Router(), [anyio.Event() for _ in range(3)]
        begun, ended = set[int](), list[int]()

        @router.on("t", concurrency=2)
        async def handle(this: Job) -> None:
            begun.add(this.id)
            if this.id < len(go):
                await go[this.id].wait()
            else:
                await anyio.lowlevel.checkpoint()

        async def quick() -> None:
            await run(router, *(job(n) for n in range(10, 20)))
            ended.append(1)

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(run, router, job(0), job(1))
                await until(lambda: begun == {0, 1})
                group.start_soon(quick)
                await anyio.wait_all_tasks_blocked()
                group.start_soon(run, router, job(2))
                await anyio.wait_all_tasks_blocked()
                go[0].set()
                await until(lambda: ended)
                go[1].set()
                go[2].set()

    async def test_one_route_at_its_limit_holds_up_no_other(self) -> None:
        router, go, seen = Router(), anyio.Event(), list[int]()

        @router.on("slow", concurrency=1)
        async def slow(job: Job) -> None:
            await go.wait()

        @router.on("quick")
        async def quick(job: Job) -> None:
            seen.append(job.id)

        jobs = [job(n, "slow" if n % 2 else "quick") for n in range(40)]
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(run, router, *jobs)
                await until(lambda: len(seen) == 20)
                go.set()

    async def test_sync_handlers_run_in_threads(self) -> None:
        router, barrier, threads = Router(), threading.Barrier(4, timeout=PATIENCE), set[int]()

        @router.on("t", concurrency=4)
        def handle(job: Job) -> None:
            threads.add(threading.get_ident())
            barrier.wait()

        assert await run(router, *(job(n) for n in range(4))) == {}
        assert len(threads) == 4
        assert threading.get_ident() not in threads

    async def test_no_task_is_made_where_no_handler_waits(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Who takes long gives others a turn, and a process that is not let run takes long.
        monkeypatch.setattr(running, "_TURN_SECONDS", PATIENCE)
        router, tasks = Router(), set[Any]()

        @router.on("t")
        async def handle(job: Job) -> None:
            tasks.add(asyncio.current_task())

        await run(router, *(job(n) for n in range(100)))

        assert tasks == {asyncio.current_task()}

    async def test_a_handler_that_never_waits_gives_others_a_turn(self) -> None:
        router, turns = Router(), list[int]()

        @router.on("t")
        async def handle(this: Job) -> None:
            ends = time.monotonic() + 0.006
            while time.monotonic() < ends:
                pass

            seen.append(this.id)

        seen: list[int] = []

        async def other() -> None:
            while len(seen) < 10:
                turns.append(len(seen))
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as group:
            group.start_soon(other)
            await run(router, *(job(n) for n in range(10)))

        assert len(set(turns)) > 3


class TestKeys:
    @given(
        st.lists(
            st.tuples(st.sampled_from("abcd"), st.sampled_from([None, "x", "y", "z"])),
            min_size=1,
            max_size=25,
        )
    )
    def test_jobs_of_one_key_run_in_order_and_never_overlap(
        self, made: list[tuple[str, str | None]]
    ) -> None:
        router = Router()
        running: set[str] = set()
        seen: dict[str, list[int]] = {}
        everything: list[int] = []

        async def work(this: Job) -> None:
            everything.append(this.id)
            if this.key is None:
                await anyio.lowlevel.checkpoint()
                return

            assert this.key not in running
            running.add(this.key)
            seen.setdefault(this.key, []).append(this.id)
            for _ in range(this.id % 3):
                await anyio.lowlevel.checkpoint()

            running.remove(this.key)

        @router.on("a")
        async def one(job: Job) -> None:
            await work(job)

        @router.on("b", concurrency=1)
        async def serial(job: Job) -> None:
            await work(job)

        @router.on("c", batch=True)
        async def many(jobs: Sequence[Job]) -> None:
            for each in jobs:
                await work(each)

        @router.on("d", concurrency=2)
        def sync(job: Job) -> None:
            anyio.from_thread.run(work, job)

        jobs = [job(n, topic, key=key) for n, (topic, key) in enumerate(made)]
        assert asyncio.run(run(router, *jobs)) == {}

        assert sorted(everything) == [each.id for each in jobs]
        for key, ids in seen.items():
            assert ids == [each.id for each in jobs if each.key == key]

    async def test_other_keys_are_not_held_up(self) -> None:
        router, go, seen = Router(), anyio.Event(), list[int]()

        @router.on("t")
        async def handle(this: Job) -> None:
            if this.id == 0:
                await go.wait()

            seen.append(this.id)

        jobs = [job(n, key="ab"[n % 2]) for n in range(6)]
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(run, router, *jobs)
                await until(lambda: seen == [1, 3, 5])
                go.set()

        assert seen == [1, 3, 5, 0, 2, 4]

    async def test_after_a_failure_the_key_goes_on(self) -> None:
        router, seen = Router(), list[int]()

        @router.on("t")
        async def handle(this: Job) -> None:
            seen.append(this.id)
            raise ValueError

        assert (await run(router, job(1, key="k"), job(2, key="k"))).keys() == {1, 2}
        assert seen == [1, 2]


OUTCOMES: list[tuple[Any, str]] = [
    (None, ""),
    (Done(), ""),
    (Retry(5), "Retry"),
    (Dead("no"), "Dead"),
    (ValueError("no"), "ValueError"),
]


class TestOutcomes:
    @pytest.mark.parametrize("asynchronous", [True, False])
    @pytest.mark.parametrize("options", [{}, {"timeout": 20}, {"batch": True}], ids=str)
    @pytest.mark.parametrize("raised", [True, False])
    async def test_of_each_job_its_own(
        self, asynchronous: bool, options: dict[str, Any], raised: bool
    ) -> None:
        """Returned or raised, single or alone in a batch: it means the same."""

        def outcome(job: Job) -> Any:
            value = OUTCOMES[job.id][0]
            if raised and value is not None:
                raise value

            return {job.id: value} if options.get("batch") and value else value

        async def one(job: Job) -> Any:
            return outcome(job)

        async def many(jobs: list[Job]) -> Any:
            return outcome(jobs[0])

        def one_sync(job: Job) -> Any:
            return outcome(job)

        def many_sync(jobs: list[Job]) -> Any:
            return outcome(jobs[0])

        router = Router()
        chosen = [[one_sync, many_sync], [one, many]][asynchronous][bool(options.get("batch"))]
        router.on("t", **options)(chosen)
        errors: dict[int, Any] = {}
        if options.get("batch"):
            for n in range(len(OUTCOMES)):
                errors |= await run(router, job(n))
        else:
            errors = await run(router, *(job(n) for n in range(len(OUTCOMES))))

        assert {id_: type(error).__name__ for id_, error in errors.items()} == {
            n: name for n, (_, name) in enumerate(OUTCOMES) if name
        }

    @pytest.mark.parametrize("value", [False, True, 0, "done", [], Retry])
    async def test_what_says_nothing_is_no_success(self, value: Any) -> None:
        router = Router()

        @router.on("t")
        async def handle(job: Job) -> Any:
            return value

        error = (await run(router, job(1)))[1]
        assert isinstance(error, ResultInvalid)
        assert "handle returned a " in str(error)

    @pytest.mark.parametrize("asynchronous", [True, False])
    @pytest.mark.parametrize(
        "error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()]
    )
    async def test_whatever_is_raised_is_one_jobs_failure(
        self, asynchronous: bool, error: BaseException
    ) -> None:
        router, seen = Router(), list[int]()

        def work(this: Job) -> None:
            if this.id == 1:
                raise error

            seen.append(this.id)

        async def handle(job: Job) -> None:
            work(job)

        router.on("t")(handle if asynchronous else work)
        errors = await run(router, job(0), job(1), job(2))

        assert sorted(seen) == [0, 2]
        (failure,) = judge([job(1)], errors, RetryPolicy(), jitter=lambda low, high: high)
        assert failure.error.endswith(type(error).__name__)
        assert isinstance(failure.fate, Retry)

    async def test_a_batch_that_raises_tells_of_its_company(self) -> None:
        router = Router()

        @router.on("t", batch=True)
        async def handle(jobs: list[Job]) -> None:
            raise Dead("whose?")

        errors = await run(router, job(1), job(2))

        assert [(type(each), each.jobs) for each in errors.values()] == [(Raised, 2)] * 2
        failures = judge([job(1), job(2)], errors, RetryPolicy(), jitter=lambda low, high: high)
        assert [(each.jobs, each.fate.after) for each in failures] == [(2, 0.0)] * 2

    @pytest.mark.parametrize("asynchronous", [True, False])
    async def test_a_call_that_takes_too_long_is_given_up(self, asynchronous: bool) -> None:
        router, go = Router(), threading.Event()

        async def for_ever(job: Job) -> None:
            await anyio.sleep_forever()

        def in_a_thread(job: Job) -> None:
            go.wait(PATIENCE)

        router.on("t", timeout=0.02)(for_ever if asynchronous else in_a_thread)
        try:
            with anyio.fail_after(PATIENCE):
                error = (await run(router, job(1)))[1]
        finally:
            go.set()

        assert isinstance(error, TimeoutError)
        assert "was not done within 0.02 s" in str(error)


class TestCancelling:
    @pytest.mark.parametrize("options", [{}, {"timeout": 60}, {"batch": True}], ids=str)
    async def test_our_own_goes_through(self, options: Any) -> None:
        router, started = Router(), list[int]()

        async def one(job: Job) -> None:
            started.append(job.id)
            await anyio.sleep_forever()

        async def many(jobs: list[Job]) -> None:
            started.append(jobs[0].id)
            await anyio.sleep_forever()

        router.on("t", **options)(many if "batch" in options else one)
        returned = False

        async def go() -> None:
            nonlocal returned
            await run(router, *(job(n) for n in range(30)))
            returned = True

        async with anyio.create_task_group() as group:
            group.start_soon(go)
            await until(lambda: started)
            group.cancel_scope.cancel()

        assert not returned
        # And nothing is kept from the next.
        flow = router.flow_of("t")
        assert flow is not None
        assert flow.slots is None or all(flow.slots.try_take() for _ in range(10))

    async def test_a_thread_that_is_left_behind_begins_no_other_job(self) -> None:
        router, started, ended, go = Router(), list[int](), list[int](), threading.Event()

        @router.on("t", concurrency=1)
        def handle(job: Job) -> None:
            started.append(job.id)
            go.wait(PATIENCE)
            ended.append(job.id)

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(run, router, *(job(n) for n in range(5)))
                await until(lambda: started)
                group.cancel_scope.cancel()
        finally:
            go.set()

        # A second job would begin at once after the first.
        await until(lambda: ended)
        await anyio.to_thread.run_sync(lambda: None)
        assert started == [0]


class TestSlots:
    async def test_who_comes_first_is_first(self) -> None:
        slots, order = Slots(1), list[int]()

        async def take(number: int) -> None:
            await slots.take()
            order.append(number)
            await anyio.lowlevel.checkpoint()
            slots.give()

        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(take, number)

        assert order == list(range(5))
        assert slots.try_take()

    async def test_a_slot_for_somebody_who_left_goes_to_the_next(self) -> None:
        slots = Slots(1)
        await slots.take()
        left = asyncio.create_task(slots.take())
        await anyio.wait_all_tasks_blocked()

        slots.give()
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left

        assert slots.try_take()


class TestTransactions:
    async def test_single_jobs_each_have_a_part(self) -> None:
        router, unit = Router(), MemoryUnit()

        @router.on("t", transactional=True)
        async def handle(this: Job, connection: "psycopg.AsyncConnection[Any]") -> Any:
            connection.write(this.id)  # type: ignore[attr-defined]
            if this.id == 2:
                raise ValueError

            return Retry(1) if this.id == 3 else Done() if this.id == 4 else None

        errors = await run(router, *(job(n) for n in range(1, 6)), unit=unit)

        assert errors.keys() == {2, 3}
        assert unit.written == [1, 4, 5], "what failed is undone, also by a returned outcome"
        assert unit.diary.count("undo") == 2

    async def test_several_handlers_share_one_if_one_of_them_wants_it(self) -> None:
        router, unit = Router(), MemoryUnit()

        @router.on("t")
        async def first(context: Context) -> None:
            await context.enqueue("more")

        @router.on("t", transactional=True)
        async def second(this: Job, connection: "psycopg.AsyncConnection[Any]") -> None:
            connection.write(this.id)  # type: ignore[attr-defined]
            if this.id == 2:
                raise ValueError

        assert (await run(router, job(1), job(2), unit=unit)).keys() == {2}
        assert unit.diary == ["begin [1]", "keep", "begin [2]", "undo"]
        assert [each.headers for each in unit.enqueued] == [
            {"correlation-id": "1", "causation-id": "1"}
        ]

    async def test_a_batch_has_one(self) -> None:
        router, unit = Router(), MemoryUnit()

        @router.on("t", batch=True, transactional=True)
        def handle(jobs: list[Job], session: "Session") -> list[int]:
            for each in jobs:
                session.write(each.id)  # type: ignore[attr-defined]

            return [2]

        assert (await run(router, job(1), job(2), unit=unit)).keys() == {2}
        assert unit.diary == ["begin [1, 2]", "keep"]

    async def test_nothing_is_begun_for_a_payload_that_does_not_fit(self) -> None:
        router, unit = Router(), MemoryUnit()

        @router.on("t", transactional=True)
        async def handle(number: int) -> None: ...

        @router.on("o", delivery="at_most_once")
        async def pay(number: int) -> None: ...

        bad = [job(1, payload=b'"x"'), job(2, "o", payload=b'"x"')]
        assert (await run(router, *bad, unit=unit)).keys() == {1, 2}
        assert unit.diary == []

    async def test_at_most_once_is_noted_before(self) -> None:
        router, unit = Router(), MemoryUnit()

        @router.on("t", delivery="at_most_once", concurrency=1)
        async def pay(this: Job) -> None:
            unit.diary.append(f"pay {this.id}")
            if this.id == 2:
                raise ValueError("who knows")

        errors = await run(router, job(1), job(2), unit=unit)

        assert unit.diary == ["once [1]", "pay 1", "once [2]", "pay 2"]
        assert isinstance(errors[2], ValueError), "the consumer makes it a doubt, with this text"
