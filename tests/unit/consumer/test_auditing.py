"""Executions are written, then settled; workers wait only while too much is unwritten."""

from collections.abc import Sequence

import anyio
import pytest

from pgcdc_outbox.consumer import auditing
from pgcdc_outbox.consumer.auditing import Auditing
from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.core.call import Call, Execution
from pgcdc_outbox.errors import LedgerUnavailable, PermissionMissing
from tests.unit.consumer.fakes import PATIENCE, jobs

pytestmark = pytest.mark.anyio


class FakeTrail:
    """Writes when it is let, or raises what it is told."""

    def __init__(self, *failures: Exception) -> None:
        self.written: list[list[int]] = []
        self.failures = list(failures)
        self.gate = anyio.Event()
        self.asked = anyio.Event()

    async def write(self, executions: Sequence[Execution]) -> None:
        self.asked.set()
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)

        self.written.append([job.id for each in executions for job in each.jobs])


def execution(count: int) -> Execution:
    return Execution(jobs(count), Call(0.0, 0.1), count)


def audited(trail: FakeTrail) -> Auditing:
    return Auditing(trail, consumer="default", notice=Notice([]))


async def test_it_settles_after_the_write_and_what_gathers_meanwhile_goes_together() -> None:
    trail, settled = FakeTrail(), []
    subject = audited(trail)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(subject.run)
            await subject.add(execution(1), size=1, settle=lambda: settled.append("a"))
            await trail.asked.wait()
            await subject.add(execution(2), size=1, settle=lambda: settled.append("b"))
            await subject.add(execution(3), size=1, settle=lambda: settled.append("c"))
            assert settled == []
            trail.gate.set()
            await subject.written()
            group.cancel_scope.cancel()

    assert settled == ["a", "b", "c"]
    assert trail.written == [[1], [1, 2, 1, 2, 3]]


async def test_a_worker_waits_while_too_much_is_unwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditing, "_MOST_JOBS", 2)
    trail, went_on = FakeTrail(), anyio.Event()
    subject = audited(trail)

    async def work() -> None:
        await subject.add(execution(2), size=1, settle=lambda: None)
        went_on.set()

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(subject.run)
            group.start_soon(work)
            await trail.asked.wait()
            await anyio.wait_all_tasks_blocked()
            assert not went_on.is_set()
            trail.gate.set()
            await went_on.wait()
            group.cancel_scope.cancel()


async def test_trouble_that_passes_is_tried_again_with_the_same_rows() -> None:
    trail, settled = FakeTrail(LedgerUnavailable("gone")), []
    trail.gate.set()
    subject = audited(trail)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(subject.run)
            await subject.add(execution(1), size=1, settle=lambda: settled.append("a"))
            await subject.written()
            group.cancel_scope.cancel()

    assert (settled, trail.written) == (["a"], [[1]])


async def test_trouble_that_stays_ends_it_and_nobody_waits_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(auditing, "_MOST_JOBS", 1)
    trail, settled = FakeTrail(PermissionMissing("no")), []
    trail.gate.set()
    subject = audited(trail)
    failures: list[Exception] = []

    async def run() -> None:
        try:
            await subject.run()
        except PermissionMissing as error:
            failures.append(error)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await subject.add(execution(1), size=1, settle=lambda: settled.append("a"))
            await subject.written()

    assert len(failures) == 1
    assert settled == []


async def test_the_next_hold_begins_with_nothing() -> None:
    """What an earlier one left is settled by nobody: it comes again."""
    trail, settled = FakeTrail(), []
    subject = audited(trail)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as first:
            first.start_soon(subject.run)
            await anyio.wait_all_tasks_blocked()
            await subject.add(execution(1), size=1, settle=lambda: settled.append("old"))
            await trail.asked.wait()
            await subject.add(execution(1), size=1, settle=lambda: settled.append("older"))
            first.cancel_scope.cancel()

        trail.gate.set()
        subject.begin()
        async with anyio.create_task_group() as second:
            second.start_soon(subject.run)
            await anyio.wait_all_tasks_blocked()
            await subject.add(execution(2), size=1, settle=lambda: settled.append("new"))
            await subject.written()
            second.cancel_scope.cancel()

    assert settled == ["new"]
    assert trail.written == [[1, 2]]
