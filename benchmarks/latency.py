"""From commit to handler: when jobs were committed, joined with when they came."""

from collections.abc import Iterable, Mapping, Sequence

from benchmarks.case import Sample
from benchmarks.task import MARK, Sighting

Key = tuple[int, int]
"""A producer, and the number of its job."""


def arrivals(sightings: Iterable[Sighting], *, shared: bool) -> dict[Key, int]:
    """When each job came first, in nanoseconds: by the shared monotonic clock, or since 1970."""
    came: dict[Key, int] = {}
    for sighting in sightings:
        moment = sighting.monotonic if shared else sighting.clock
        for mark in sighting.marks:
            producer, number = MARK.unpack(mark)
            came.setdefault((producer, number), moment)

    return came


def sample(
    committed: Mapping[Key, int], came: Mapping[Key, int], **also: Mapping[str, float]
) -> Sample:
    """The median in milliseconds, and beside it what the slower ones took.

    A latency below zero is no mistake: the handler may have the job before the
    producer has heard that it committed. Raises `RuntimeError` if a job did not come.
    """
    if missing := len(committed.keys() - came.keys()):
        raise RuntimeError(f"{missing} of {len(committed)} jobs did not come")

    latencies = sorted((came[key] - moment) / 1e6 for key, moment in committed.items())
    return Sample(
        value=percentile(latencies, 50),
        also={
            "p95 ms": percentile(latencies, 95),
            "p99 ms": percentile(latencies, 99),
            "longest ms": latencies[-1],
            **{name: value for each in also.values() for name, value in each.items()},
        },
    )


def percentile(ascending: Sequence[float], percent: float) -> float:
    """The smallest value that so many per cent do not exceed."""
    rank = -(-len(ascending) * percent // 100)  # rounded up
    return ascending[max(int(rank), 1) - 1]
