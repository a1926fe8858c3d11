"""Work beside the jobs, repeated for as long as the consumer is held."""

import random

import anyio

from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.consumer.ports import Chore
from pgcdc_outbox.core.reconnect import Backoff
from pgcdc_outbox.errors import Fenced, OutboxError
from pgcdc_outbox.events import ChoreFailed


async def keep_doing(chore: Chore, *, consumer: str, notice: Notice) -> None:
    """Do a chore again and again, until cancelled.

    One that fails is told and tried again later; jobs go on meanwhile. Only
    the loss of the hold (`Fenced`) ends it.
    """
    backoff = Backoff()
    while True:
        try:
            delay = await chore.once()
            backoff.reset()
        except Fenced:
            raise
        except OutboxError as error:
            delay = backoff.next(random.uniform)
            notice(
                ChoreFailed(
                    consumer=consumer, chore=chore.name, error=str(error), delay_seconds=delay
                )
            )

        await anyio.sleep(delay)
