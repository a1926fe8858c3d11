"""Sync functions, called off the loop."""

import inspect
from collections.abc import Callable
from typing import Any

from anyio import CapacityLimiter, to_thread


async def in_thread(call: Callable[[], Any], limiter: CapacityLimiter) -> Any:
    """Call it in a thread, and await what it returns if that is to be awaited.

    Raises whatever it raises, `BaseException` included. On cancellation the
    thread is abandoned, because it cannot be stopped.
    """

    def run() -> tuple[BaseException | None, Any]:
        # Carried over as a value: a future does not take every BaseException.
        try:
            return None, call()
        except BaseException as error:
            return error, None

    error, result = await to_thread.run_sync(run, abandon_on_cancel=True, limiter=limiter)
    if error is not None:
        raise error

    return await result if inspect.isawaitable(result) else result
