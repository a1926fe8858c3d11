"""Steps that are not to be cut off half way."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

T = TypeVar("T")


async def to_its_end(
    step: Callable[[], Awaitable[T]], *, grace: float, give_up: Callable[[], Awaitable[None]]
) -> T:
    """Take a step; when cancelled, let it end if it does so within ``grace`` seconds.

    If it does not, ``give_up`` is called, and then the step is cancelled.
    """
    finished = anyio.Event()
    scope = anyio.CancelScope(shield=True)
    result: list[T] = []
    failure: list[Exception] = []

    async def take() -> None:
        with scope:
            try:
                result.append(await step())
            except Exception as error:
                failure.append(error)

        finished.set()

    async with anyio.create_task_group() as group:
        group.start_soon(take)
        try:
            await finished.wait()
        except BaseException:
            with anyio.move_on_after(grace, shield=True):
                await finished.wait()

            if not finished.is_set():
                await give_up()
                scope.cancel()

            raise

    if failure:
        raise failure[0]

    return result[0]
