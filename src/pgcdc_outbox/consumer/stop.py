"""A request to end, in two steps: the first drains, the second stops."""

import asyncio
import threading

import anyio
from anyio import from_thread
from anyio.lowlevel import EventLoopToken, current_token


class Stop:
    """May be asked for from the event loop, a signal handler or another thread.

    Make it on the event loop that will wait for it.
    """

    def __init__(self) -> None:
        self._token: EventLoopToken = current_token()
        self._thread = threading.get_ident()
        self._asked = anyio.Event()
        self._insisted = anyio.Event()

    @property
    def asked(self) -> bool:
        """Whether it was asked for at all."""
        return self._asked.is_set()

    def ask(self) -> None:
        """Ask once to drain; ask again not to wait any longer."""
        if threading.get_ident() == self._thread:
            self._ask()
            self._wake()
            return

        from_thread.run_sync(self._ask, token=self._token)

    async def wait(self) -> None:
        """Return when it was asked for."""
        await self._asked.wait()

    async def wait_insisted(self) -> None:
        """Return when it was asked for twice."""
        await self._insisted.wait()

    def _ask(self) -> None:
        if self._asked.is_set():
            self._insisted.set()

        self._asked.set()

    def _wake(self) -> None:
        """Rouse a loop that sleeps: a signal handler interrupts its sleep, but does not end it."""
        loop = self._token.native_token
        if isinstance(loop, asyncio.AbstractEventLoop):
            loop.call_soon_threadsafe(lambda: None)
