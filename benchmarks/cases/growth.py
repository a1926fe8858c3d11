"""What it costs as it grows: one thing at a time, everything else as it is."""

from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar

import psycopg

from benchmarks.backlog import Backlog, backlog
from benchmarks.case import Case, Contender, Point, Sample, Scale
from benchmarks.crew import drained
from benchmarks.place import Place

_MIB = 2**20
_PER_TRANSACTION = 1000

# As many partitions as wanted, a day each, up to today; maintenance knows none of them.
_PARTITIONS = """
do $$
declare today timestamptz := date_trunc('day', now(), 'UTC');
begin
    for day in 1..{days} loop
        execute format(
            'create table outbox.%I partition of outbox.immediate for values from (%L) to (%L)',
            'bench_' || day, today - day * interval '1 day', today - (day - 1) * interval '1 day'
        );
    end loop;
end
$$
"""


class Growth(Case):
    """Jobs a second, and the memory of the reader, as a function of one number."""

    unit = "jobs/s"
    counted = (
        "Jobs over the time of the whole run, connecting and ending included, interpreter and "
        "imports not. The handler does nothing. Memory is the most that the reading process ever "
        "had, interpreter included."
    )
    durable = (
        "The jobs were committed before. When a run ends, the position is saved, written to the "
        "log and, within a second, to the disk."
    )

    both: ClassVar[bool] = True
    """Whether it is polled too."""

    def point(self, place: Place, made: Backlog, name: str, x: float) -> Point:
        """Reading a backlog once from the log and, if wanted, once from the table."""
        ways = {"reading the log": partial(_log, place, made, {})}
        if self.both:
            ways["polling"] = partial(_table, place, made)

        contenders = [Contender(name=way, run=run) for way, run in ways.items()]
        return Point(name=name, x=x, contenders=contenders)


class GrowingBacklog(Growth):
    """From ten thousand jobs to ten million."""

    name = "growth-backlog"
    title = "The more jobs wait"
    growing = "jobs in the backlog"

    def points(self, place: Place, scale: Scale) -> Iterator[Point]:
        every = (10_000, 100_000, 1_000_000, 10_000_000)
        for jobs in scale.sizes(every, usual=1_000_000, quick=1):
            with backlog(place, jobs=jobs, size=_PER_TRANSACTION) as made:
                yield self.point(place, made, f"{jobs:,} jobs", jobs)


class GrowingPayload(Growth):
    """From forty bytes to a mebibyte; fewer jobs, the larger they are."""

    name = "growth-payload"
    title = "The larger a payload is"
    growing = "bytes of a payload"

    def points(self, place: Place, scale: Scale) -> Iterator[Point]:
        total = scale.size(128, quick=2) * _MIB
        for payload in scale.few((40, 1024, 16 * 1024, 128 * 1024, _MIB)):
            jobs = max(min(total // payload, 100_000 if total > 2 * _MIB else 1000), 4)
            with backlog(place, jobs=jobs, size=1, payload=payload) as made:
                yield self.point(place, made, f"{payload:,} bytes, {jobs:,} jobs", payload)


class GrowingPartitions(Growth):
    """From one partition to a thousand, with the jobs spread over them."""

    name = "growth-partitions"
    title = "The more partitions there are"
    growing = "partitions"

    def points(self, place: Place, scale: Scale) -> Iterator[Point]:
        jobs = scale.size(100_000, quick=1000)
        for days in (10,) if scale.quick else (1, 10, 100, 1000):
            with backlog(
                place,
                jobs=jobs,
                size=min(_PER_TRANSACTION, jobs),
                days=days,
                prepare=_PARTITIONS.format(days=days),
            ) as made:
                yield self.point(place, made, f"{days:,} partitions", days)


class GrowingConsumers(Growth):
    """From one named consumer to eight, each of which gets every job, at the same time."""

    name = "growth-consumers"
    title = "The more consumers read the same jobs"
    growing = "consumers"
    counted = (
        f"Jobs of all consumers together over the time until the last has ended. {Growth.counted}"
    )

    def points(self, place: Place, scale: Scale) -> Iterator[Point]:
        jobs = scale.size(100_000, quick=500)
        for count in (2,) if scale.quick else (1, 2, 4, 8):
            names = [f"reader{number}" for number in range(count)]
            size = min(_PER_TRANSACTION, jobs)
            with backlog(place, jobs=jobs, size=size, consumers=names) as made:
                run = partial(_together, place, made, names)
                yield Point(
                    name=f"{count} consumers",
                    x=count,
                    contenders=[Contender(name="reading the log", run=run)],
                )


class GrowingTransaction(Growth):
    """One transaction, and all jobs in it."""

    name = "growth-transaction"
    title = "The larger a transaction is"
    growing = "jobs in one transaction"

    def points(self, place: Place, scale: Scale) -> Iterator[Point]:
        every = (10_000, 100_000, 1_000_000, 5_000_000)
        for jobs in scale.sizes(every, usual=1_000_000, quick=1):
            with backlog(place, jobs=jobs, size=jobs) as made:
                yield self.point(place, made, f"{jobs:,} jobs in one transaction", jobs)


GROWTH = (GrowingBacklog, GrowingPayload, GrowingPartitions, GrowingConsumers, GrowingTransaction)


def _log(place: Place, made: Backlog, settings: dict[str, Any]) -> Sample:
    made.rewind()
    return drained(place, made.task(settings={"maintenance": False, **settings}))


def _table(place: Place, made: Backlog) -> Sample:
    # Under a name of its own: the other's checkpoint and slot stay what they are.
    with psycopg.connect(made.dsn, autocommit=True) as connection:
        connection.execute("delete from outbox.consumer where name = 'polling'")

    settings = {"mode": "polling", "name": "polling", "maintenance": False}
    return drained(place, made.task(settings=settings))


def _together(place: Place, made: Backlog, names: list[str]) -> Sample:
    for name in names:
        made.rewind(name)

    tasks = [made.task(settings={"maintenance": False, "name": name}) for name in names]
    return drained(place, *tasks)
