"""Who waits for whom, and for how long."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from pgcdc_outbox.consumer.turns import Turns
from tests.unit.consumer.fakes import PATIENCE, until


class Stage:
    """Calls that begin when their turn comes, and end when they are told."""

    def __init__(self, patience: float) -> None:
        self.turns = Turns(patience=patience)
        self.on: set[str] = set()
        self._ends: dict[str, anyio.Event] = {}

    async def enter(self, name: str) -> None:
        self._ends[name] = anyio.Event()
        turn = self.turns.alone() if name.startswith("alone") else self.turns.beside()
        async with turn:
            self.on.add(name)
            await self._ends[name].wait()
            self.on.remove(name)

    def end(self, name: str) -> None:
        self._ends[name].set()


@asynccontextmanager
async def stage(*names: str, patience: float = PATIENCE) -> AsyncIterator[Stage]:
    """A stage on which these enter, in this order."""
    made = Stage(patience)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            for name in names:
                group.start_soon(made.enter, name)
                await anyio.wait_all_tasks_blocked()

            yield made
            group.cancel_scope.cancel()


async def test_calls_run_side_by_side() -> None:
    async with stage("a", "b") as on:
        assert on.on == {"a", "b"}


async def test_one_alone_waits_for_all_others() -> None:
    async with stage("a", "b", "alone") as on:
        on.end("a")
        await anyio.wait_all_tasks_blocked()
        assert on.on == {"b"}
        on.end("b")
        await until(lambda: on.on == {"alone"})


async def test_others_wait_for_one_alone_and_for_one_that_waits() -> None:
    async with stage("a", "alone", "b") as on:
        assert on.on == {"a"}
        on.end("a")
        await anyio.wait_all_tasks_blocked()
        assert on.on == {"alone"}
        on.end("alone")
        await until(lambda: on.on == {"b"})


@pytest.mark.parametrize("patience", [0, PATIENCE])
async def test_two_alone_never_meet(patience: float) -> None:
    async with stage("alone 1", "alone 2", patience=patience) as on:
        assert on.on == {"alone 1"}
        on.end("alone 1")
        await until(lambda: on.on == {"alone 2"})


async def test_a_call_that_never_ends_does_not_keep_one_alone_for_ever() -> None:
    async with stage("a", "alone", patience=0.01) as on:
        await until(lambda: on.on == {"a", "alone"})


async def test_one_alone_that_never_ends_does_not_keep_others_for_ever() -> None:
    async with stage("alone", "b", patience=0.01) as on:
        await until(lambda: on.on == {"alone", "b"})


async def test_whoever_waits_next_does_not_wait_again_for_the_same() -> None:
    async with stage("alone", "b", patience=0.01) as on:
        await until(lambda: on.on == {"alone", "b"})
        async with anyio.create_task_group() as group:
            group.start_soon(on.enter, "c")
            await anyio.wait_all_tasks_blocked()
            assert "c" in on.on
            group.cancel_scope.cancel()


async def test_a_turn_that_is_cancelled_is_over() -> None:
    turns = Turns(patience=PATIENCE)
    for turn in (turns.alone, turns.beside):
        with anyio.CancelScope() as scope:
            async with turn():
                scope.cancel()
                await anyio.lowlevel.checkpoint()

    with anyio.fail_after(PATIENCE / 2):
        async with turns.alone():
            pass
