"""Waiting for a condition, with a deadline.

Tests wait for what they are about to rely on, never for a length of time. So a deadline
matters only to a test that fails, and is far from what a stalled machine takes.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

# Seconds between two looks: soon at first, then a tenth of what was waited, for many tests
# wait at a time and looks take up what they wait for.
SHORTEST = 0.02
LONGEST = 0.2


def eventually(predicate: Callable[[], T], timeout: float = 60.0) -> T:
    """Ask until the answer is true, and return it.

    An assertion that fails inside ``predicate`` counts as "not yet", and is what the test
    fails with when the deadline comes.
    """
    patience = Patience(timeout)

    while True:
        try:
            if answer := predicate():
                return answer
            patience.spend(answer)
        except AssertionError as error:
            patience.spend(error)
        time.sleep(patience.pause())


async def eventually_async(predicate: Callable[[], Awaitable[T]], timeout: float = 60.0) -> T:
    """Do the same with a predicate that has to be awaited."""
    patience = Patience(timeout)

    while True:
        try:
            if answer := await predicate():
                return answer
            patience.spend(answer)
        except AssertionError as error:
            patience.spend(error)
        await asyncio.sleep(patience.pause())


class Patience:
    """A deadline that explains what it was waiting for."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._began = time.monotonic()
        self._deadline = self._began + timeout

    def pause(self) -> float:
        """How long to wait before the next look."""
        return min(max(SHORTEST, (time.monotonic() - self._began) / 10), LONGEST)

    def spend(self, answer: object) -> None:
        if time.monotonic() < self._deadline:
            return
        if isinstance(answer, WaitedInVainError):
            raise answer
        cause = answer if isinstance(answer, AssertionError) else None
        raise WaitedInVainError(
            f"not within {self._timeout} s; the last answer was {answer!r}"
        ) from cause


class WaitedInVainError(AssertionError):
    """The condition did not come true in time."""
