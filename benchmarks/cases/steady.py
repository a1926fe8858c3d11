"""Jobs that keep coming, at several rates: latency, processor time, and lag."""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial

import psycopg

from benchmarks import latency, outbox, pgbench
from benchmarks.case import Case, Contender, Point, Sample, Scale
from benchmarks.crew import attending
from benchmarks.lag import Lag
from benchmarks.place import Place
from benchmarks.slots import bare_slot, read_all, slot_of
from benchmarks.task import Task
from benchmarks.usage import ServerUsage

CLIENTS = 8
YARDSTICK = "bare psycopg2 cursor"

# Commits a second, and whether each waits for the disk.
RATES = ((1000, True), (1000, False), (10_000, False), (30_000, False))


class Steady(Case):
    """pgbench commits jobs at a rate; a reader in a process of its own hands them out."""

    name = "steady"
    title = "Latency while jobs keep coming"
    unit = "ms, p50"
    repetitions = 1
    growing = "commits wanted per second"
    counted = (
        "From the return of the commit in pgbench (eight clients, at random moments) to the first "
        "line of the handler, by the clock of the machine. Below zero means that the handler was "
        "earlier than the answer to the client. Processor time is that of the reading process and "
        "of the walsender, per job and in per cent of one processor."
    )
    durable = (
        "With the disk, each commit waited for it; with fsync off it did not, because a disk that "
        "takes 30,000 commits a second is rare, and the reader notices no difference."
    )

    def points(self, place: Place, scale: Scale) -> Iterator[Point]:
        seconds = scale.duration(60, quick=1)
        with place.database() as dsn:
            outbox.create(dsn)
            for rate, durably in scale.few(RATES):
                with nullcontext("each commit on disk") if durably else place.without_disk() as how:
                    yield Point(
                        name=f"{rate:,} commits/s, {how}",
                        x=None if durably else rate,
                        yardstick=YARDSTICK,
                        contenders=[
                            Contender(
                                name=YARDSTICK,
                                run=partial(_bare, place, dsn, rate, seconds),
                                settings="",
                            ),
                            Contender(
                                name="reading the log",
                                run=partial(_ours, place, dsn, rate, seconds),
                            ),
                        ],
                    )


def _ours(place: Place, dsn: str, rate: int, seconds: float) -> Sample:
    read_all(dsn)  # what others left behind
    with psycopg.connect(dsn) as connection:
        slot = slot_of(connection)

    return _run(place, Task(dsn=dsn, jobs=None, work="note"), slot, rate, seconds)


def _bare(place: Place, dsn: str, rate: int, seconds: float) -> Sample:
    with bare_slot(dsn) as slot:
        task = Task(dsn=dsn, jobs=None, reader="bare", work="note", slot=slot)
        return _run(place, task, slot, rate, seconds)


def _run(place: Place, task: Task, slot: str, rate: int, seconds: float) -> Sample:
    with attending(task) as reader, ServerUsage(place.postmaster) as server:
        with Lag(task.dsn, slot) as lag:
            load = pgbench.run(
                place,
                task.dsn,
                pgbench.MARKED,
                clients=CLIENTS,
                seconds=seconds,
                rate=rate,
                log=True,
            )

        outcome = reader.end()

    sample = latency.sample(
        load.committed,
        latency.arrivals(outcome.sightings, shared=False),
        reached={"commits/s": load.commits_per_second},
        processor=_processor(outcome.usage.cpu_seconds, "reader", len(load.committed), seconds),
        sender=_processor(
            server.sender.cpu_seconds if server.sender else 0.0,
            "walsender",
            len(load.committed),
            seconds,
        ),
        lag=lag.told,
    )
    return Sample(value=sample.value, also=sample.also, series={"lag in bytes": lag.bytes})


def _processor(used: float, who: str, jobs: int, seconds: float) -> dict[str, float]:
    return {f"{who} CPU µs/job": 1e6 * used / jobs, f"{who} CPU %": 100 * used / seconds}
