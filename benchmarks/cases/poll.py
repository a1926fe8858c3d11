"""Draining a backlog by polling the table, with batches and backlogs of several sizes.

Against what pg_recvlogical makes of the same backlog, so that the two ways to read can be compared.
"""

from collections.abc import Iterator
from functools import partial

from benchmarks.backlog import Backlog, backlog
from benchmarks.case import Case, Contender, Point, Sample, Scale
from benchmarks.crew import drained
from benchmarks.place import Place

BATCHES = (10_000, 1000, 100)
PER_TRANSACTION = 1000
YARDSTICK = "pg_recvlogical"


class Poll(Case):
    """How the rate depends on the size of a batch, and on that of the backlog."""

    name = "poll"
    title = "Draining a backlog by polling"
    unit = "jobs/s"
    growing = "jobs in the backlog"
    counted = (
        "Jobs over the time of the whole run, connecting and ending included, interpreter and "
        "imports not. The handler does nothing. 1,000 jobs in a transaction. pg_recvlogical reads "
        "the same jobs from the log, and throws them away."
    )
    durable = (
        "The jobs were committed before. When a run ends, the position is saved, written to the "
        "log and, within a second, to the disk."
    )

    def points(self, place: Place, scale: Scale) -> Iterator[Point]:
        largest = scale.size(600_000, quick=4000)
        for jobs in scale.few((largest, largest // 4, largest // 16)):
            with backlog(place, jobs=jobs, size=min(PER_TRANSACTION, jobs)) as made:
                yield Point(
                    name=f"a backlog of {made.jobs:,}",
                    x=made.jobs,
                    yardstick=YARDSTICK,
                    contenders=[
                        Contender(
                            name=YARDSTICK,
                            run=partial(made.recvlogical, place.transports[0]),
                            settings="-f /dev/null",
                        ),
                        *(
                            Contender(
                                name="polling, no-op",
                                run=partial(_poll, place, made, batch),
                                settings="defaults" if batch == 100 else f"batch_size={batch}",
                            )
                            for batch in BATCHES
                        ),
                    ],
                )


def _poll(place: Place, made: Backlog, batch: int) -> Sample:
    made.forget()
    return drained(place, made.task(settings={"mode": "polling", "batch_size": batch}))
