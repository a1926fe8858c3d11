"""How fast jobs that wait are handed out, to a handler that does nothing."""

import time
from collections.abc import Sequence
from typing import Final

import anyio

from pgcdc_outbox.app import Consumer
from pgcdc_outbox.bench.room import READER
from pgcdc_outbox.consumer.ports import Observer, UserHandler
from pgcdc_outbox.errors import SlotBlocked
from pgcdc_outbox.job import Job
from pgcdc_outbox.postgres.source.reading import Mode

_BEGIN_SECONDS: Final = 30.0

NAMES: Final[dict[Mode, str]] = {"logical": READER, "polling": "bench_polling"}
"""Of the consumers: each has every job to read."""


def begin(conninfo: str, schema: str, mode: Mode) -> None:
    """Let a consumer take hold for the first time, so that what follows waits for it.

    Raises what says that it cannot: `WalLevelTooLow`, `PermissionMissing`, or `SlotBlocked`
    if it did not come to it in half a minute.
    """

    async def run() -> None:
        with anyio.fail_after(_BEGIN_SECONDS):
            await consumer(conninfo, schema, mode, _nothing).run(once=True)

    try:
        anyio.run(run)
    except TimeoutError:
        raise SlotBlocked(f"it did not begin within {_BEGIN_SECONDS:.0f} s") from None


def drain(conninfo: str, schema: str, mode: Mode) -> tuple[int, float]:
    """How many jobs there were, and how many a second were handed out.

    The time is that of the whole run, connecting and ending included.
    """
    seen = 0

    async def count(jobs: Sequence[Job]) -> None:
        nonlocal seen
        seen += len(jobs)

    async def run() -> None:
        await consumer(conninfo, schema, mode, count).run(once=True)

    started = time.perf_counter()
    anyio.run(run)
    return seen, seen / (time.perf_counter() - started)


def consumer(
    conninfo: str,
    schema: str,
    mode: Mode,
    handler: UserHandler,
    observers: Sequence[Observer] = (),
) -> Consumer:
    """One with its defaults."""
    return Consumer(
        conninfo,
        handler,
        name=NAMES[mode],
        schema=schema,
        mode=mode,
        observers=observers,
    )


async def _nothing(jobs: Sequence[Job]) -> None:
    return None
