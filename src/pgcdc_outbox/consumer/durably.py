"""What must not be skipped, a write above all: tried until it is done."""

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.core.reconnect import Backoff
from pgcdc_outbox.errors import LedgerUnavailable
from pgcdc_outbox.events import ChoreFailed

# However long the server was away: once it is back, the write has to be made before the
# hold that waits for it gives up, and its jobs come again.
_CAP_SECONDS = 1.0

T = TypeVar("T")


async def durably(
    write: Callable[[], Awaitable[T]], *, doing: str, consumer: str, notice: Notice
) -> T:
    """Write, and try again for as long as the server is in trouble; each time is told.

    Raises whatever else goes wrong, `Fenced` above all.
    """
    backoff = Backoff(cap=_CAP_SECONDS)
    while True:
        try:
            return await write()
        except LedgerUnavailable as error:
            delay = backoff.next(random.uniform)
            notice(
                ChoreFailed(consumer=consumer, chore=doing, error=str(error), delay_seconds=delay)
            )
            await anyio.sleep(delay)
