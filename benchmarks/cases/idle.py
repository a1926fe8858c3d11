"""How soon a job that comes alone reaches its handler."""

import random
from collections.abc import Iterator
from functools import partial
from typing import Any

import psycopg

from benchmarks import latency, outbox, producer
from benchmarks.case import Case, Contender, Point, Sample, Scale
from benchmarks.crew import attending
from benchmarks.place import Place
from benchmarks.producer import Calls
from benchmarks.slots import bare_slot, read_all
from benchmarks.task import Task

PAUSE_SECONDS = 0.05
YARDSTICK = "bare psycopg2 cursor"


class Idle(Case):
    """One job each 50 ms, from one process to another."""

    name = "idle"
    title = "Latency when there is nothing else to do"
    unit = "ms, p50"
    counted = (
        "From the return of the commit in a producer with psycopg to the first line of the "
        "handler, in another process, by the monotonic clock that both share. One job each 50 ms. "
        "Below zero means that the handler was earlier than the answer to the producer."
    )
    durable = "The job is on disk, for its commit waited for that; the handler's work is not yet."

    def points(self, place: Place, scale: Scale) -> Iterator[Point]:
        count = scale.size(400, quick=10)
        with place.database() as dsn:
            outbox.create(dsn)
            for transport in scale.few(place.transports):
                run = partial(_run, place, dsn, transport, count)
                yield Point(
                    name=transport,
                    yardstick=YARDSTICK,
                    contenders=[
                        Contender(name=YARDSTICK, run=partial(_bare, run, dsn), settings=""),
                        Contender(name="reading the log", run=partial(run, {})),
                        Contender(name="polling", run=partial(_polling, run, dsn)),
                    ],
                )


def _run(
    place: Place, dsn: str, transport: str, count: int, settings: dict[str, Any], slot: str = ""
) -> Sample:
    task = Task(
        dsn=place.through(transport, dsn),
        jobs=None,
        reader="bare" if slot else "ours",
        work="note",
        settings=settings,
        slot=slot,
    )
    if not slot:
        read_all(dsn, **settings)  # what others left behind

    mark = random.getrandbits(31)
    with attending(task) as reader:
        returned = producer.run(
            Calls(dsn=dsn, producer=mark, count=count, pause_seconds=PAUSE_SECONDS)
        )
        outcome = reader.end()

    return latency.sample(
        {(mark, number): moment for number, moment in enumerate(returned)},
        latency.arrivals(outcome.sightings, shared=True),
        reader={"reader CPU µs/job": 1e6 * outcome.usage.cpu_seconds / count},
    )


def _bare(run: Any, dsn: str) -> Sample:
    with bare_slot(dsn) as slot:
        sample: Sample = run({}, slot)
        return sample


def _polling(run: Any, dsn: str) -> Sample:
    # Under a name of its own, because the slot of the other would have to be made again.
    try:
        sample: Sample = run({"mode": "polling", "name": "polling"})
        return sample
    finally:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("delete from outbox.consumer where name = 'polling'")
