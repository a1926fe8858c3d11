"""Steps side by side, of which the first failure ends all."""

from collections.abc import Awaitable, Callable

import anyio


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
