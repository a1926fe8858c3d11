"""A server that shuts down: noticed, and let go of.

It waits for our reader until that has confirmed everything, and, if it was asked
politely, for every other session of ours.
"""

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import anyio
from anyio import to_thread

from pgcdc_outbox.consumer.intake import Intake
from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.errors import OutboxError, ServerStopping, SourceUnavailable
from pgcdc_outbox.events import ServerDraining
from pgcdc_outbox.postgres.session import Session

# How often the connection of the lock is looked at. It costs the server nothing.
_LOOK_SECONDS = 1.0
# How often the server is asked. A smart shutdown leaves every session alone; what tells
# of it is that new ones are refused.
_ASK_SECONDS = 5.0
# What each step of leaving may take.
_LEAVE_SECONDS = 2.0
_CANNOT_CONNECT_NOW: Final = "57P03"

Step = Callable[[], Awaitable[None]]


class Shutdown:
    """Watches the server during one hold, or while it stands by."""

    def __init__(
        self, control: Session, *, consumer: str, grace: float, let_go: Step, notice: Notice
    ) -> None:
        self._control = control
        self._consumer = consumer
        self._grace = grace
        self._let_go = let_go
        self._notice = notice
        self._asked_at = time.monotonic()
        self._told = anyio.Event()
        self._settled = 0
        self._settled_one = anyio.Event()
        self.sign = ""
        """How the server was found to shut down; empty while it is not."""

    def tell(self, sign: str) -> None:
        """Somebody else has noticed."""
        self.sign = self.sign or sign
        self._told.set()

    def settled(self) -> None:
        """A batch that was handed out is settled."""
        self._settled += 1
        self._settled_one.set()

    async def look(self) -> None:
        """Raise `ServerStopping` if the server shuts down; asks now and then, if called often."""
        if time.monotonic() - self._asked_at >= _ASK_SECONDS:
            self._asked_at = time.monotonic()
            if await self._is_stopping():
                raise ServerStopping("the server is shutting down")

    async def bear(self, step: Step) -> None:
        """Take a step that fails when the server ends our connection.

        If it does so because it shuts down, this waits for ever: such a server
        gives the lock to nobody else, and `drain` says when to go.
        """
        try:
            await step()
        except SourceUnavailable as error:
            await self._judge(error)
            await anyio.sleep_forever()

    async def drain(self, intake: Intake) -> None:
        """Once the server shuts down, give running calls their grace; then raise `ServerStopping`.

        Raises `SourceUnavailable` if it ended the connection of the lock otherwise.
        """
        await self._wait()
        self._notice(
            ServerDraining(consumer=self._consumer, sign=self.sign, grace_seconds=self._grace)
        )
        intake.pause()
        with anyio.move_on_after(self._grace):
            while self._settled < intake.handed_out:
                self._settled_one = anyio.Event()
                await self._settled_one.wait()

        raise ServerStopping("the server is shutting down")

    async def leave(self, *steps: Step) -> None:
        """Take the last steps, as far as the server still allows them, and close what is open."""
        for step in steps:
            with anyio.move_on_after(_LEAVE_SECONDS), suppress(OutboxError):
                await step()

        with anyio.move_on_after(_LEAVE_SECONDS):
            await self._let_go()

    async def _wait(self) -> None:
        while not self.sign:
            if self._control.lost:
                await self._judge(SourceUnavailable("the connection of the consumer ended"))
            elif time.monotonic() - self._asked_at >= _ASK_SECONDS:
                self._asked_at = time.monotonic()
                if await self._is_stopping():
                    self.tell("it refuses new connections")

            with anyio.move_on_after(_LOOK_SECONDS):
                await self._told.wait()

    async def _judge(self, error: SourceUnavailable) -> None:
        if not self.sign and not await self._is_stopping():
            raise error

        self.tell("it ended the connection of the consumer")

    async def _is_stopping(self) -> bool:
        if (door := self._control.door) is None:
            return False

        return await to_thread.run_sync(door.hail, abandon_on_cancel=True) == _CANNOT_CONNECT_NOW
