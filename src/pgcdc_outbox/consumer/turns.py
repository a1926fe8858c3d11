"""Calls that run side by side, and calls that run alone."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio


class Turns:
    """Says when a call may run.

    Two calls that are to be alone never run at the same time, however long it
    takes. Others keep out of their way, and they out of the others', but only
    for ``patience`` seconds: a call that never ends must not stop everything.
    """

    def __init__(self, *, patience: float) -> None:
        self._patience = patience
        self._alone = anyio.Lock()
        self._beside = 0
        self._open = anyio.Event()
        self._open.set()
        self._left = anyio.Event()
        self._one_beside = _Beside(self._enter, self._leave)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """A turn of one call, when no other runs."""
        async with self._alone:
            self._open = anyio.Event()
            try:
                with anyio.move_on_after(self._patience):
                    while self._beside:
                        self._left = anyio.Event()
                        await self._left.wait()

                yield
            finally:
                self._open.set()

    def beside(self) -> AbstractAsyncContextManager[None]:
        """A turn beside others of its kind."""
        return self._one_beside

    async def _enter(self) -> None:
        if not self._open.is_set():
            opened = self._open
            with anyio.move_on_after(self._patience):
                await opened.wait()

            # Whoever waited in vain did it for all that come after.
            opened.set()

        self._beside += 1

    def _leave(self) -> None:
        self._beside -= 1
        self._left.set()


class _Beside(AbstractAsyncContextManager[None]):
    """Every batch has such a turn, so it is no generator: that would cost as much as the batch."""

    def __init__(self, enter: Callable[[], Awaitable[None]], leave: Callable[[], None]) -> None:
        self._enter = enter
        self._leave = leave

    async def __aenter__(self) -> None:
        await self._enter()

    async def __aexit__(self, *_: object) -> None:
        self._leave()
