"""Measuring a case: contenders in turn, as often as wanted.

In turn, and in another order each time, because a machine is faster in one minute
than in the next: what disturbs, disturbs all of them.
"""

from collections.abc import Callable
from contextlib import closing

from benchmarks import machine
from benchmarks.case import Case, Point, Sample, Scale
from benchmarks.place import Place
from benchmarks.results import Measured, Result, Standing

Tell = Callable[[str], None]


def measure(case: Case, place: Place, scale: Scale, *, repetitions: int, tell: Tell) -> Result:
    """Measure every point of a case."""
    load_before = machine.load()
    with closing(case.points(place, scale)) as points:
        measured = [_point(case, point, repetitions, tell) for point in points]

    return Result(
        case=case.name,
        title=case.title,
        unit=case.unit,
        counted=case.counted,
        durable=case.durable,
        growing=case.growing,
        points=measured,
        load_before=load_before,
        load_after=machine.load(),
    )


def _point(case: Case, point: Point, repetitions: int, tell: Tell) -> Measured:
    samples: list[list[Sample]] = [[] for _ in point.contenders]
    for turn in range(repetitions):
        order = range(len(samples)) if turn % 2 == 0 else reversed(range(len(samples)))
        for index in order:
            contender = point.contenders[index]
            sample = contender.run()
            samples[index].append(sample)
            tell(
                f"{case.name}: {point.name}: {contender.label}: "
                f"{sample.value:,.4g} {case.unit} ({turn + 1}/{repetitions})"
            )

    return Measured(
        name=point.name,
        yardstick=point.yardstick,
        x=point.x,
        standings=[
            Standing(name=contender.name, settings=contender.settings, samples=given)
            for contender, given in zip(point.contenders, samples, strict=True)
        ],
    )
