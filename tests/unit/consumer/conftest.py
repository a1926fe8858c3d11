"""Time and chance, in the hands of the tests."""

import random
from collections.abc import Callable

import anyio
import pytest


class Chance:
    """Stands in for `random.uniform`: every wait takes no time, and is remembered."""

    def __init__(self) -> None:
        self.ranges: list[tuple[float, float]] = []
        self.answer: Callable[[float, float], float] = lambda low, high: 0.0

    def __call__(self, low: float, high: float) -> float:
        self.ranges.append((low, high))
        return self.answer(low, high)


@pytest.fixture
def chance(monkeypatch: pytest.MonkeyPatch) -> Chance:
    chance = Chance()
    monkeypatch.setattr(random, "uniform", chance)
    return chance


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []

    async def sleep(delay: float) -> None:
        slept.append(delay)
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr(anyio, "sleep", sleep)
    return slept
