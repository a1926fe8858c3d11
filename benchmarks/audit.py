"""What it costs to keep a row of each execution.

A backlog is drained by a handler that does nothing, in alternation with ``audit="none"``
and with ``audit="all"``, on the same server. So the ratio is the worst that there is:
whatever a handler does makes it better.
"""

import statistics
import sys
from collections.abc import Iterator

from benchmarks.backlog import Backlog
from benchmarks.drain import SETTINGS, SHAPES, drain
from pgcdc_outbox.testing.server import PostgresServer


def measure(jobs: int, repeats: int) -> Iterator[dict[str, float]]:
    """Rates and their ratio for each shape of transaction."""
    with PostgresServer.start() as server:
        for size in SHAPES:
            backlog = Backlog(server, jobs=jobs, size=size)
            without, with_all = [], []
            for _ in range(repeats):
                without.append(jobs / drain(backlog, audit="none", **SETTINGS))
                with_all.append(jobs / drain(backlog, audit="all", **SETTINGS))

            yield {
                "jobs_per_transaction": size,
                "none": statistics.median(without),
                "all": statistics.median(with_all),
                "ratio": statistics.median(with_all) / statistics.median(without),
            }


def main(jobs: int = 300_000, repeats: int = 5) -> None:
    """Print a table."""
    print("jobs/s drained (medians), and ratio to audit=none")
    print(f"{'jobs/transaction':>16} {'audit=none':>12} {'audit=all':>20}")
    for row in measure(jobs, repeats):
        print(
            f"{row['jobs_per_transaction']:>16,} {row['none']:>12,.0f} "
            f"{row['all']:>13,.0f} {row['ratio']:>5.2f}x",
            flush=True,
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
