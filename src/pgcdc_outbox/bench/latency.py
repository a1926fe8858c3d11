"""How soon a job that comes alone reaches its handler."""

import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Final

import anyio
import msgspec

from pgcdc_outbox.bench.draining import consumer
from pgcdc_outbox.bench.figures import percentile
from pgcdc_outbox.bench.producer import Calls
from pgcdc_outbox.errors import OutboxError, SourceUnavailable
from pgcdc_outbox.events import Event, Polling, Streaming
from pgcdc_outbox.job import Job
from pgcdc_outbox.postgres.source.reading import Mode

_PATIENCE_SECONDS: Final = 30.0


def latency(conninfo: str, schema: str, mode: Mode, samples: int) -> tuple[float, float]:
    """Milliseconds from the return of a commit to the handler: the median, and the 99th per cent.

    The producer is a process of its own on this machine, and both look at the clock that they
    share. Less than nothing means that the handler had it before the producer knew. Raises
    `SourceUnavailable` if jobs did not come in time.
    """
    try:
        return anyio.run(_measure, conninfo, schema, mode, samples)
    except BaseExceptionGroup as group:
        cause: BaseException = group
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]

        raise cause from None


async def _measure(conninfo: str, schema: str, mode: Mode, samples: int) -> tuple[float, float]:
    came: dict[int, int] = {}
    changed = anyio.Event()

    async def note(jobs: Sequence[Job]) -> None:
        nonlocal changed
        now = time.monotonic_ns()
        for job in jobs:
            came.setdefault(job.id, now)

        changed.set()
        changed = anyio.Event()

    reading = anyio.Event()

    def watch(event: Event) -> None:
        if isinstance(event, Streaming | Polling):
            reading.set()

    reader = consumer(conninfo, schema, mode, note, [watch])
    async with anyio.create_task_group() as group:
        group.start_soon(reader.run)
        await reading.wait()
        returned = await _commits(Calls(conninfo=conninfo, schema=schema, count=samples))
        with anyio.move_on_after(_PATIENCE_SECONDS) as patience:
            while returned.keys() - came.keys():
                await changed.wait()

        reader.stop()

    if patience.cancelled_caught:
        raise SourceUnavailable(
            f"{len(returned.keys() - came.keys())} of {samples} jobs did not come "
            f"within {_PATIENCE_SECONDS:.0f} s"
        )

    milliseconds = sorted((came[job] - moment) / 1e6 for job, moment in returned.items())
    return percentile(milliseconds, 50), percentile(milliseconds, 99)


async def _commits(calls: Calls) -> dict[int, int]:
    """Let the producer commit; when each commit returned, by the id of its job."""
    # Not as an argument: the connection string may hold a password.
    done = await anyio.run_process(
        [sys.executable, "-m", "pgcdc_outbox.bench.producer"],
        input=msgspec.json.encode(calls),
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        raise OutboxError(f"the producer failed: {done.stderr.decode(errors='replace')[-500:]}")

    return msgspec.json.decode(done.stdout, type=dict[int, int])
