"""Draining a backlog: our consumer against pg_recvlogical, in alternation.

Both read a slot that stands before the same jobs, on the same server, through
the same socket. pg_recvlogical throws away what it gets; ours decodes every
job, hands batches to a handler that does nothing, tracks progress, reports and
checkpoints, through the public API with every feature on. The time is that of
the whole run, connecting and ending included.
"""

import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import anyio

from benchmarks.backlog import Backlog
from pgcdc_outbox import Consumer, Job
from pgcdc_outbox.testing.server import PostgresServer

SHAPES = (1, 1000)
SETTINGS = {"batch_size": 1000, "prefetch": 20_000}


def drain(backlog: Backlog, **settings: Any) -> float:
    """Seconds that our consumer takes for the backlog."""
    backlog.rewind()
    seen = 0

    async def nothing(jobs: Sequence[Job]) -> None:
        nonlocal seen
        seen += len(jobs)

    async def run() -> None:
        await Consumer(backlog.dsn, nothing, observers=(), **settings).run(once=True)

    started = time.perf_counter()
    anyio.run(run)
    seconds = time.perf_counter() - started
    if seen != backlog.jobs:
        raise RuntimeError(f"{backlog.jobs} jobs were committed, {seen} handled")

    return seconds


def measure(jobs: int, repeats: int) -> Iterator[dict[str, float]]:
    """Rates and their ratio for each shape of transaction."""
    with PostgresServer.start() as server:
        for size in SHAPES:
            backlog = Backlog(server, jobs=jobs, size=size)
            ours, tuned, theirs = [], [], []
            for _ in range(repeats):
                theirs.append(jobs / backlog.recvlogical())
                ours.append(jobs / drain(backlog))
                tuned.append(jobs / drain(backlog, **SETTINGS))

            yield {
                "jobs": jobs,
                "jobs_per_transaction": size,
                "pg_recvlogical": statistics.median(theirs),
                "defaults": statistics.median(ours),
                "tuned": statistics.median(tuned),
                "ratio_defaults": statistics.median(ours) / statistics.median(theirs),
                "ratio_tuned": statistics.median(tuned) / statistics.median(theirs),
            }


def main(jobs: int = 300_000, repeats: int = 5) -> None:
    """Print a table."""
    print("jobs/s drained (medians), and ratio to pg_recvlogical -f /dev/null")
    print(f"{'jobs/transaction':>16} {'pg_recvlogical':>15} {'defaults':>18} {'batch 1000':>18}")
    for row in measure(jobs, repeats):
        print(
            f"{row['jobs_per_transaction']:>16,} {row['pg_recvlogical']:>15,.0f} "
            f"{row['defaults']:>11,.0f} {row['ratio_defaults']:>5.2f}x "
            f"{row['tuned']:>11,.0f} {row['ratio_tuned']:>5.2f}x",
            flush=True,
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
