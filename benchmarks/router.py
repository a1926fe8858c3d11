"""Draining through a router, against a plain handler of batches that does nothing.

Both read the same backlog with the same settings, in alternation, so that what
the router costs shows as a ratio: it finds the handler of each job, decodes the
payload into a Struct and calls an async function, for one job at a time.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import anyio
from msgspec import Struct

from benchmarks.backlog import Backlog
from pgcdc_outbox import Consumer, Job, Router
from pgcdc_outbox.testing.server import PostgresServer

SETTINGS = {"batch_size": 1000, "prefetch": 20_000}


class Order(Struct):
    """The payload of the backlog."""

    order: int
    pad: str


class Count:
    """How many jobs came."""

    def __init__(self) -> None:
        self.jobs = 0


def plain(count: Count) -> Any:
    """A handler of batches that does nothing."""

    async def nothing(jobs: Sequence[Job]) -> None:
        count.jobs += len(jobs)

    return nothing


def by_topic(count: Count) -> Router:
    """A router with an async handler of single jobs that does nothing."""
    router = Router()

    @router.on("bench")
    async def nothing(order: Order) -> None:
        count.jobs += 1

    return router


def drain(backlog: Backlog, make: Callable[[Count], Any]) -> float:
    """Jobs a second."""
    backlog.rewind()
    count = Count()

    async def run() -> None:
        await Consumer(backlog.dsn, make(count), observers=(), **SETTINGS).run(once=True)

    started = time.perf_counter()
    anyio.run(run)
    seconds = time.perf_counter() - started
    if count.jobs != backlog.jobs:
        raise RuntimeError(f"{backlog.jobs} jobs were committed, {count.jobs} handled")

    return backlog.jobs / seconds


def alone(jobs: int) -> float:
    """Jobs a second through the router alone, without a consumer or a server."""
    count = Count()
    router = by_topic(count)
    body = b'{"order": 1, "pad": "xxxxxxxxxxxxx"}'
    batch = [Job(n, "bench", body) for n in range(SETTINGS["batch_size"])]
    unit: Any = None  # asked for nothing here

    async def run() -> None:
        while count.jobs < jobs:
            await router.execute(batch, unit)

    started = time.perf_counter()
    anyio.run(run)
    return count.jobs / (time.perf_counter() - started)


def measure(jobs: int, repeats: int) -> Iterator[dict[str, float]]:
    """Rates and their ratio for each shape of transaction."""
    with PostgresServer.start() as server:
        for size in (1, 1000):
            backlog = Backlog(server, jobs=jobs, size=size)
            batches, singles, without = [], [], []
            for _ in range(repeats):
                batches.append(drain(backlog, plain))
                singles.append(drain(backlog, by_topic))
                without.append(alone(jobs))

            yield {
                "jobs_per_transaction": size,
                "plain": statistics.median(batches),
                "router": statistics.median(singles),
                "ratio": statistics.median(singles) / statistics.median(batches),
                "alone": statistics.median(without),
            }


def main(jobs: int = 300_000, repeats: int = 5) -> None:
    """Print a table."""
    print("jobs/s drained (medians): a plain handler of batches, and one-job routes with a Struct")
    print(f"{'jobs/transaction':>16} {'plain batches':>15} {'router':>18} {'router alone':>14}")
    for row in measure(jobs, repeats):
        print(
            f"{row['jobs_per_transaction']:>16,} {row['plain']:>15,.0f} "
            f"{row['router']:>11,.0f} {row['ratio']:>5.2f}x {row['alone']:>14,.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
