"""Draining a backlog from the log, against pg_recvlogical."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from benchmarks.backlog import Backlog, backlog
from benchmarks.case import Case, Contender, Point, Sample, Scale
from benchmarks.crew import drained
from benchmarks.place import Place
from benchmarks.task import Work

SHAPES = (1, 1000)
TUNED = {"batch_size": 1000, "prefetch": 20_000}
YARDSTICK = "pg_recvlogical"

# Name of the contender, what its handler does, and settings of the consumer.
OURS: tuple[tuple[str, Work, dict[str, Any]], ...] = (
    ("no-op", "nothing", {}),
    ("no-op", "nothing", TUNED),
    ("JSON to a file", "file", {}),
    ("JSON to a file", "file", TUNED),
    ("router, job by job", "routed", {}),
    ("router, job by job", "routed", TUNED),
    ("a tenth fails", "tenth fails", {}),
    ("a tenth fails", "tenth fails", TUNED),
)


class Drain(Case):
    """Through the public interface with every feature on, connecting and ending included."""

    name = "drain"
    title = "Draining a backlog from the log"
    unit = "jobs/s"
    counted = (
        "Jobs over the time of the whole run, connecting and ending included, interpreter and "
        "imports not. pg_recvlogical reads a copy of the same slot and throws everything away."
    )
    durable = (
        "The jobs were committed before. Failures are on disk before their batch is settled. When "
        "a run of ours ends, the position is saved, written to the log and, within a second, to "
        "the disk; pg_recvlogical keeps nothing."
    )

    def points(self, place: Place, scale: Scale) -> Iterator[Point]:
        jobs = scale.size(150_000, quick=2000)
        for size in SHAPES:
            with backlog(place, jobs=jobs, size=size) as made:
                shape = "1 job" if size == 1 else f"{size:,} jobs"
                for transport in scale.few(place.transports):
                    yield Point(
                        name=f"{shape} in a transaction, {transport}",
                        yardstick=YARDSTICK,
                        contenders=[
                            Contender(
                                name=YARDSTICK,
                                run=partial(made.recvlogical, transport),
                                settings="-f /dev/null",
                            ),
                            *(
                                Contender(
                                    name=name,
                                    run=partial(_ours, place, made, transport, work, settings),
                                    settings=spelled(settings),
                                )
                                for name, work, settings in OURS
                            ),
                        ],
                    )


def spelled(settings: dict[str, Any]) -> str:
    """Settings of the consumer as one writes them."""
    return ", ".join(f"{name}={value}" for name, value in settings.items()) or "defaults"


def _ours(
    place: Place, made: Backlog, transport: str, work: Work, settings: dict[str, Any]
) -> Sample:
    made.rewind()
    return drained(place, made.task(transport, work=work, settings=settings))
