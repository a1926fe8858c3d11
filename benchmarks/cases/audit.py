"""What it costs to keep a row of each execution."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from benchmarks.backlog import Backlog, backlog
from benchmarks.case import Case, Contender, Point, Sample, Scale
from benchmarks.cases.drain import SHAPES, TUNED
from benchmarks.crew import drained
from benchmarks.place import Place

YARDSTICK = "audit=none"


class Audit(Case):
    """The handler does nothing, so the ratio is the worst that there is."""

    name = "audit"
    title = "Keeping a row of each execution"
    unit = "jobs/s"
    counted = (
        "Jobs over the time of the whole run, connecting and ending included, interpreter and "
        "imports not, with batch_size=1000, prefetch=20000. Whatever a handler does makes the "
        "ratio better."
    )
    durable = (
        "The jobs were committed before. When a run ends, the position is saved and, with "
        "audit=all, a row of each execution is written, to the log and, within a second, to the "
        "disk."
    )

    def points(self, place: Place, scale: Scale) -> Iterator[Point]:
        jobs = scale.size(300_000, quick=1000)
        for size in scale.few(SHAPES):
            with backlog(place, jobs=jobs, size=size) as made:
                shape = "1 job" if size == 1 else f"{size:,} jobs"
                yield Point(
                    name=f"{shape} in a transaction",
                    yardstick=YARDSTICK,
                    contenders=[
                        Contender(
                            name=f"audit={kept}",
                            run=partial(_drain, place, made, {**TUNED, "audit": kept}),
                            settings="",
                        )
                        for kept in ("none", "failures", "all")
                    ],
                )


def _drain(place: Place, made: Backlog, settings: dict[str, Any]) -> Sample:
    made.rewind()
    return drained(place, made.task(settings=settings))
