"""The queue between the reader and its workers."""

from collections.abc import Callable

import anyio
import pytest

from pgcdc_outbox.consumer.intake import Intake
from pgcdc_outbox.core.batching import Batch, Batcher
from pgcdc_outbox.core.progress import Ticket
from tests.unit.consumer.fakes import PATIENCE, job, until


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def intake_of(clock: Clock) -> Callable[..., Intake]:
    def make(*, batch: int = 2, jobs: int = 4, size: int = 1 << 20, age: float = 5.0) -> Intake:
        batcher = Batcher(max_jobs=batch, max_bytes=1 << 20, max_age=age)
        return Intake(batcher, max_jobs=jobs, max_bytes=size, clock=clock)

    return make


def put(intake: Intake, *ids: int, at: float = 100.0) -> None:
    for id_ in ids:
        intake.put(job(id_), Ticket(), at)


def ids(batch: Batch | None) -> list[int]:
    assert batch is not None
    return [each.id for each in batch.jobs]


class Workers:
    """Some workers that take and do nothing."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self.taken: list[list[int]] = []
        self.ended = 0

    async def work(self) -> None:
        while (batch := await self.intake.take()) is not None:
            self.taken.append(ids(batch))

        self.ended += 1


async def settle_down() -> None:
    """Let everybody go on who can."""
    for _ in range(20):
        await anyio.lowlevel.checkpoint()


async def test_a_full_batch_is_handed_out_at_once(intake_of: Callable[..., Intake]) -> None:
    intake = intake_of(batch=2)
    put(intake, 1, 2, 3)

    with anyio.fail_after(PATIENCE):
        assert ids(await intake.take()) == [1, 2]


async def test_a_waiting_worker_is_woken_by_a_full_batch(intake_of: Callable[..., Intake]) -> None:
    intake = intake_of(batch=2)
    workers = Workers(intake)

    async with anyio.create_task_group() as group:
        group.start_soon(workers.work)
        await settle_down()
        put(intake, 1)
        intake.release(idle=False)
        await settle_down()
        assert workers.taken == []

        put(intake, 2)
        intake.release(idle=False)
        await until(lambda: workers.taken == [[1, 2]])
        group.cancel_scope.cancel()


async def test_when_the_source_is_idle_nothing_waits(intake_of: Callable[..., Intake]) -> None:
    intake = intake_of(batch=2)
    workers = Workers(intake)

    async with anyio.create_task_group() as group:
        group.start_soon(workers.work)
        await settle_down()
        put(intake, 1)
        intake.release(idle=True)
        await until(lambda: workers.taken == [[1]])
        group.cancel_scope.cancel()


async def test_a_worker_that_comes_later_finds_what_was_released(
    intake_of: Callable[..., Intake],
) -> None:
    intake = intake_of(batch=2)
    put(intake, 1)
    intake.release(idle=True)

    with anyio.fail_after(PATIENCE):
        assert ids(await intake.take()) == [1]


async def test_while_jobs_keep_coming_a_batch_waits_until_it_is_old(
    intake_of: Callable[..., Intake], clock: Clock
) -> None:
    intake = intake_of(batch=2, age=5)
    workers = Workers(intake)

    async with anyio.create_task_group() as group:
        group.start_soon(workers.work)
        put(intake, 1, at=100)
        clock.now = 104.9
        intake.release(idle=False)
        await settle_down()
        assert workers.taken == []

        clock.now = 105
        intake.release(idle=False)
        await until(lambda: workers.taken == [[1]])
        group.cancel_scope.cancel()


async def test_it_is_full_by_jobs(intake_of: Callable[..., Intake]) -> None:
    intake = intake_of(jobs=3)
    put(intake, 1, 2)
    assert not intake.full

    put(intake, 3)
    assert intake.full


async def test_it_is_full_by_bytes(intake_of: Callable[..., Intake]) -> None:
    intake = intake_of(size=1000)
    put(intake, 1)
    assert not intake.full

    put(intake, 2)
    assert intake.full


async def test_there_is_room_at_once_if_it_is_not_full(intake_of: Callable[..., Intake]) -> None:
    with anyio.fail_after(PATIENCE):
        await intake_of().room()


async def test_the_reader_waits_until_there_is_room(intake_of: Callable[..., Intake]) -> None:
    intake = intake_of(batch=1, jobs=2)
    put(intake, 1, 2, 3)
    on = []

    async def read() -> None:
        await intake.room()
        on.append("read on")

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await settle_down()
        assert ids(await intake.take()) == [1]
        await settle_down()
        assert on == [], "two of two are still there"

        assert ids(await intake.take()) == [2]
        await until(lambda: on)
        group.cancel_scope.cancel()


async def test_what_is_full_is_handed_out_though_no_batch_is(
    intake_of: Callable[..., Intake],
) -> None:
    """Nothing more will come while the reader waits, so it would wait for ever."""
    intake = intake_of(batch=100, jobs=2)
    put(intake, 1, 2)
    workers = Workers(intake)

    async with anyio.create_task_group() as group:
        group.start_soon(workers.work)
        with anyio.fail_after(PATIENCE):
            await intake.room()

        assert workers.taken == [[1, 2]]
        group.cancel_scope.cancel()


async def test_every_worker_gets_something(intake_of: Callable[..., Intake]) -> None:
    intake = intake_of(batch=1, jobs=10)
    gate = anyio.Event()
    taken: list[list[int]] = []

    async def work() -> None:
        taken.append(ids(await intake.take()))
        await gate.wait()

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(work)

        await settle_down()
        put(intake, 1, 2, 3)
        intake.release(idle=False)
        await until(lambda: len(taken) == 3)
        group.cancel_scope.cancel()

    assert sorted(taken) == [[1], [2], [3]]


async def test_a_job_that_no_handler_shall_see_is_alone(intake_of: Callable[..., Intake]) -> None:
    intake = intake_of(batch=10)
    put(intake, 1)
    intake.put_dead(job(2), "no payload", Ticket(), 100.0)
    put(intake, 3)
    intake.release(idle=True)

    with anyio.fail_after(PATIENCE):
        batches = [await intake.take() for _ in range(3)]

    assert [ids(batch) for batch in batches] == [[1], [2], [3]]
    assert [batch.dead for batch in batches] == ["", "no payload", ""]


async def test_closing_wakes_everybody_and_forgets_the_rest(
    intake_of: Callable[..., Intake],
) -> None:
    intake = intake_of(batch=10, jobs=2)
    workers = Workers(intake)
    on = []

    async def read() -> None:
        put(intake, 1, 2)
        await intake.room()
        on.append("read on")

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(workers.work)

            await settle_down()
            put(intake, 1)
            assert intake.close() == 1

        assert workers.ended == 3
        assert workers.taken == []
        assert intake.closed
        await read()

    assert on == ["read on"], "nobody waits for room in what is closed"


async def test_a_reader_that_waits_for_room_is_woken_by_the_close(
    intake_of: Callable[..., Intake],
) -> None:
    intake = intake_of(batch=10, jobs=2)
    put(intake, 1, 2)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(intake.room)
            await settle_down()
            assert intake.close() == 2


async def test_once_closed_nothing_is_handed_out(intake_of: Callable[..., Intake]) -> None:
    intake = intake_of(batch=1)
    intake.close()
    put(intake, 1)
    intake.release(idle=True)

    with anyio.fail_after(PATIENCE):
        assert await intake.take() is None
