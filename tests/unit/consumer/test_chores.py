"""Work beside the jobs."""

import anyio
import pytest

from pgcdc_outbox.consumer.chores import keep_doing
from pgcdc_outbox.errors import Fenced, SourceUnavailable
from pgcdc_outbox.events import ChoreFailed
from tests.unit.consumer.conftest import Chance
from tests.unit.consumer.fakes import PATIENCE, Events, FakeChore


async def do(chore: FakeChore, events: Events) -> None:
    """Do it until it has nothing more to say."""
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(
                lambda: keep_doing(chore, consumer="default", notice=events)  # type: ignore[arg-type]
            )
            await chore.exhausted.wait()
            group.cancel_scope.cancel()


async def test_it_says_itself_when_to_come_again(slept: list[float]) -> None:
    events = Events()

    await do(FakeChore(5.0, 0.0, 7.0), events)

    assert slept == [5, 0, 7]
    assert events == []


async def test_a_failure_is_told_and_it_is_tried_again(slept: list[float], chance: Chance) -> None:
    chance.answer = lambda low, high: high
    events = Events()

    await do(FakeChore(SourceUnavailable("away"), 5.0), events)

    assert slept == [0.1, 5]
    (failed,) = events.of(ChoreFailed)
    assert (failed.chore, failed.error, failed.delay_seconds) == ("sweep", "away", 0.1)


async def test_a_success_starts_the_patience_from_the_beginning(
    slept: list[float], chance: Chance
) -> None:
    chance.answer = lambda low, high: high
    away = SourceUnavailable("away")

    await do(FakeChore(away, away, 5.0, away), Events())

    assert slept == [0.1, 0.2, 5, 0.1]


@pytest.mark.parametrize("error", [Fenced("over"), RuntimeError("a mistake of ours")])
async def test_the_loss_of_the_hold_and_mistakes_end_it(error: Exception) -> None:
    with anyio.fail_after(PATIENCE), pytest.raises(type(error)) as caught:
        await keep_doing(FakeChore(error), consumer="default", notice=Events())

    assert caught.value is error
