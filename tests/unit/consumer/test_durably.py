"""What must not be skipped is tried until it is done, and soon after it can be done."""

from collections.abc import Iterator

import pytest

from pgcdc_outbox.consumer.durably import durably
from pgcdc_outbox.errors import Fenced, LedgerUnavailable
from pgcdc_outbox.events import ChoreFailed
from tests.unit.consumer.conftest import Chance
from tests.unit.consumer.fakes import Events


async def write(failures: Iterator[Exception], events: Events) -> str:
    async def once() -> str:
        for failure in failures:
            raise failure

        return "written"

    return await durably(once, doing="record outcomes", consumer="default", notice=events)  # type: ignore[arg-type]


async def test_it_is_tried_at_least_once_a_second(slept: list[float], chance: Chance) -> None:
    """However long the server was away, the write is made when it is back."""
    chance.answer = lambda low, high: high
    events = Events()

    assert await write((LedgerUnavailable("away") for _ in range(50)), events) == "written"

    assert slept[:4] == [0.1, 0.2, 0.4, 0.8]
    assert set(slept[4:]) == {1.0}
    assert len(events.of(ChoreFailed)) == 50


async def test_what_will_not_mend_itself_is_raised(slept: list[float]) -> None:
    with pytest.raises(Fenced):
        await write(iter([Fenced("taken over")]), Events())

    assert slept == []
