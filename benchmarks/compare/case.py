"""Draining, by everybody."""

from collections.abc import Iterator
from functools import partial
from typing import ClassVar

from benchmarks.backlog import backlog
from benchmarks.case import Case, Contender, Point, Sample, Scale
from benchmarks.cases.drain import TUNED, spelled
from benchmarks.compare.peer import Peer
from benchmarks.crew import drained
from benchmarks.place import Place
from benchmarks.task import Task

PEERS = ("pgqueuer", "procrastinate", "faststream_outbox", "walbox")
YARDSTICK = "psycopg2 replication cursor"


class Peers(Case):
    """Ours, a replication cursor with a parser written by hand, and other libraries."""

    name = "peers"
    title = "Draining a backlog, by several libraries"
    unit = "jobs/s"
    repetitions = 3
    counted = (
        "Jobs of forty bytes that were enqueued in bulk, over the time from the start of the "
        "worker to the end of the last job; connecting is in the time of those that read the log. "
        "Handlers are async and do nothing. PgQueuer, Procrastinate and faststream-outbox claim "
        "rows and mark or delete them, and so do more for a job; walbox reads the log, hands over "
        "transactions, and leaves failures to its handler; the replication cursor does nothing "
        "but parse, and loses what the others keep."
    )
    durable = (
        "Ours: the position, within a second. PgQueuer, Procrastinate, faststream-outbox: each "
        "job's end, in their tables, as they commit it. walbox: the position, after each "
        "transaction, and tuned once a second. The replication cursor: what it confirmed once a "
        "second."
    )
    chosen: ClassVar[tuple[str, ...]] = PEERS

    def points(self, place: Place, scale: Scale) -> Iterator[Point]:
        jobs = scale.size(20_000, quick=200)
        size = min(1000, jobs)
        jobs -= jobs % size
        yield Point(
            name=f"{jobs:,} jobs",
            yardstick=YARDSTICK,
            contenders=[
                Contender(name=YARDSTICK, run=partial(_bare, place, jobs, size), settings=""),
                *(
                    Contender(
                        name="pgcdc-outbox, reading the log",
                        run=partial(_ours, place, jobs, size, settings),
                        settings=spelled(settings),
                    )
                    for settings in ({}, TUNED)
                ),
                *self._peers(place, jobs),
            ],
        )

    def _peers(self, place: Place, jobs: int) -> Iterator[Contender]:
        for peer in map(Peer, self.chosen):
            for tuned in (False, True):
                yield Contender(
                    name=peer.version,
                    run=partial(peer.run, place, jobs, tuned=tuned),
                    settings="tuned" if tuned else "defaults",
                )


# Each run has a backlog of its own, as those of the libraries have: who reads the log to its
# end would else read what all the others have written.


def _bare(place: Place, jobs: int, size: int) -> Sample:
    with backlog(place, jobs=jobs, size=size) as made, made.copied_slot() as slot:
        return drained(place, Task(dsn=made.dsn, jobs=jobs, reader="bare", slot=slot))


def _ours(place: Place, jobs: int, size: int, settings: dict[str, int]) -> Sample:
    with backlog(place, jobs=jobs, size=size) as made:
        return drained(place, made.task(settings=settings))
