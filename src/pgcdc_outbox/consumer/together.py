"""Steps side by side, of which the first failure ends all."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import anyio

T = TypeVar("T")


async def together(*steps: Callable[[], Awaitable[None]]) -> None:
    """Run steps side by side; the first failure ends all, and is raised as it is."""
    failure: Exception | None = None
    async with anyio.create_task_group() as group:

        async def take(step: Callable[[], Awaitable[None]]) -> None:
            nonlocal failure
            try:
                await step()
            except Exception as error:
                failure = failure or error
                group.cancel_scope.cancel()

        for step in steps:
            group.start_soon(take, step)

    if failure is not None:
        raise failure


async def beside(step: Callable[[], Awaitable[T]], companion: Callable[[], Awaitable[None]]) -> T:
    """Take a step while something else goes on, which ends with it.

    Raises what either of them raises.
    """
    results: list[T] = []

    async def take() -> None:
        results.append(await step())
        raise _Done

    with suppress(_Done):
        await together(take, companion)

    return results[0]


class _Done(Exception):
    """Ends the companion."""
