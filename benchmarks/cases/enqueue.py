"""What enqueueing costs, against the same INSERT written by hand in the same driver."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

from benchmarks import outbox
from benchmarks.case import Case, Contender, Point, Sample, Scale
from benchmarks.enqueueing import ASYNC_WAYS, WAYS
from benchmarks.place import Place
from benchmarks.slots import read_all
from benchmarks.usage import Usage

YARDSTICK: Final = "INSERT by hand"

# How many jobs a transaction has, and whether its commit waits for the disk.
SHAPES: Final = ((1, "on"), (1, "off"), (100, "off"))

# Before the clock runs: drivers prepare a statement that they see for the fifth time, and
# a session that is new fills its caches.
_WARM_UP: Final = 20


class Enqueue(Case):
    """One call a job, in the transaction of the caller."""

    name = "enqueue"
    title = "Enqueueing one job after the other"
    unit = "jobs/s"
    # Short runs in many turns: within a second the machine changes little.
    repetitions = 15
    counted = (
        "Jobs over the time of all calls and commits on one open connection that has prepared "
        "its statement. By hand: the same INSERT of topic and payload, which returns the id, and "
        "the same encoder of JSON; it checks nothing. With a cursor, by hand means one cursor "
        "for all of them."
    )
    durable = (
        "With synchronous_commit on, every job is on disk; with off, it is in the memory of the "
        "server, and on disk within a second."
    )

    def points(self, place: Place, scale: Scale) -> Iterator[Point]:
        jobs = scale.size(400, quick=20)
        with place.database() as dsn:
            outbox.create(dsn)
            read_all(dsn)
            for size, synchronous in scale.few(SHAPES):
                count = f"{size} {'job' if size == 1 else 'jobs'} in a transaction"
                for way in (*WAYS, *ASYNC_WAYS):
                    yield Point(
                        name=f"{way}, {count}, synchronous_commit {synchronous}",
                        yardstick=YARDSTICK,
                        contenders=[
                            Contender(
                                name=name,
                                run=partial(_run, way, ours, dsn, synchronous, jobs, size),
                                settings="",
                            )
                            for name, ours in ((YARDSTICK, False), ("Client.enqueue", True))
                        ],
                    )


def _run(way: str, ours: bool, dsn: str, synchronous: str, jobs: int, size: int) -> Sample:
    lists = [range(first, min(first + size, jobs)) for first in range(0, jobs, size)]
    if way in WAYS:
        return _in_transactions(way, ours, dsn, synchronous, lists)

    return asyncio.run(_in_async_transactions(way, ours, dsn, synchronous, lists))


def _in_transactions(
    way: str, ours: bool, dsn: str, synchronous: str, lists: Sequence[range]
) -> Sample:
    with WAYS[way](dsn, synchronous) as desk:
        put = desk.ours if ours else desk.by_hand
        for number in range(_WARM_UP):
            put(number)

        desk.commit()
        before, started = Usage.own(), time.perf_counter()
        for numbers in lists:
            for number in numbers:
                put(number)

            desk.commit()

        return _sample(sum(map(len, lists)), time.perf_counter() - started, before)


async def _in_async_transactions(
    way: str, ours: bool, dsn: str, synchronous: str, lists: Sequence[range]
) -> Sample:
    async with ASYNC_WAYS[way](dsn, synchronous) as desk:
        put = desk.ours if ours else desk.by_hand
        for number in range(_WARM_UP):
            await put(number)

        await desk.commit()
        before, started = Usage.own(), time.perf_counter()
        for numbers in lists:
            for number in numbers:
                await put(number)

            await desk.commit()

        return _sample(sum(map(len, lists)), time.perf_counter() - started, before)


def _sample(jobs: int, seconds: float, before: Usage) -> Sample:
    used = Usage.own() - before
    return Sample(value=jobs / seconds, also={"client CPU µs/job": 1e6 * used.cpu_seconds / jobs})
