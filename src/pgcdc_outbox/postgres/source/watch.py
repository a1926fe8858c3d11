"""Looking whether the server still lives, holds our lock, and means to stay."""

import time

import anyio
from anyio import to_thread

from pgcdc_outbox.errors import SourceUnavailable
from pgcdc_outbox.postgres.session import Session

# How often the connection that holds the lock is looked at. It costs the server nothing.
_LOOK_SECONDS = 1.0
# How often the server is asked. A smart shutdown leaves every session alone and waits for
# them to end; what tells of it is that new connections are refused.
_ASK_SECONDS = 5.0
# An answer to so small a question takes no longer, or the connection is dead.
_ANSWER_SECONDS = 20.0
_CANNOT_CONNECT_NOW = "57P03"


class Watch:
    """Watches one hold through the connection that holds its lock."""

    def __init__(self, control: Session) -> None:
        self._control = control
        self._pause = _ASK_SECONDS
        self._answer = _ANSWER_SECONDS
        self._asked_at = time.monotonic()
        self._told = anyio.Event()
        self.sign = ""
        """How the server was found to shut down; empty while it is not."""

    async def lease(self, timeout: float) -> None:
        """Let the server end our session when it hears nothing for so many seconds (0: never).

        As it does with our reader. Nobody else can take the lock while it believes in a
        process that is frozen, or behind a proxy that lost it.
        """
        if timeout:
            self._pause = min(_ASK_SECONDS, timeout / 3)
            self._answer = min(_ANSWER_SECONDS, timeout * 1.5)
            await self._control.rows(
                "select set_config('idle_session_timeout', %(timeout)s, false)",
                {"timeout": f"{round(timeout * 1000)}ms"},
                doing="set idle_session_timeout",
            )

    def tell(self, sign: str) -> None:
        """Somebody else has noticed that the server shuts down."""
        self.sign = self.sign or sign
        self._told.set()

    async def wait(self) -> None:
        """Return when the server shuts down. Raises `SourceUnavailable` if the lock is lost."""
        while not self.sign:
            if self._control.lost:
                await self.judge(SourceUnavailable("the connection that holds the consumer ended"))
            elif time.monotonic() - self._asked_at >= self._pause:
                await self._ask()

            with anyio.move_on_after(min(_LOOK_SECONDS, self._pause)):
                await self._told.wait()

    async def judge(self, error: SourceUnavailable) -> None:
        """Raise the error that ended the connection of the lock, unless the server shuts down.

        A server that shuts down gives the lock to nobody else.
        """
        if not self.sign and not await self._is_stopping():
            raise error

        self.tell("it ended the connection that holds the consumer")

    async def look(self) -> None:
        """Raise `SourceUnavailable` if the server shuts down; asks now and then, if called often.

        For who stands by: its session would keep the server from stopping, too.
        """
        if time.monotonic() - self._asked_at >= _ASK_SECONDS:
            self._asked_at = time.monotonic()
            if await self._is_stopping():
                raise SourceUnavailable("the server is shutting down")

    async def _ask(self) -> None:
        await self._control.rows("select 1", doing="look at the server", within=self._answer)
        self._asked_at = time.monotonic()
        if await self._is_stopping():
            self.tell("it refuses new connections")

    async def _is_stopping(self) -> bool:
        if (door := self._control.door) is None:
            return False

        state = await to_thread.run_sync(door.hail, abandon_on_cancel=True)
        return state == _CANNOT_CONNECT_NOW
