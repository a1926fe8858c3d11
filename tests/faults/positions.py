"""Where the slot stood, held against what was settled at that time."""

import bisect
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise

from tests.faults.sampler import Sample
from tests.faults.truth import Break, Claim, Execution


def moved_back(
    samples: Sequence[Sample], breaks: Sequence[Break]
) -> Iterator[tuple[Sample, Sample]]:
    """Positions that are smaller than the one before, without a break that allows it."""
    for before, after in pairwise(samples):
        allowed = any(b.resets and before.at <= b.until and b.at <= after.at for b in breaks)
        if after.confirmed < before.confirmed and not allowed:
            yield before, after


def passed_unsettled(
    samples: Sequence[Sample],
    claims: Sequence[Claim],
    executions: Sequence[Execution],
    slots: Sequence[int],
) -> Iterator[tuple[Sample, Claim]]:
    """Positions behind a transaction of which a job had never been executed by then.

    What was committed before a slot began comes from the table, and is not the slot's to keep.
    """
    first: dict[int, float] = {}
    for run in executions:
        first[run.seq] = min(run.at, first.get(run.seq, run.at))

    floors = [0, *sorted(slots)]
    behind = {floor: _Behind(claims, first, floor) for floor in floors}
    for sample in samples:
        floor = floors[bisect.bisect_right(floors, sample.confirmed) - 1]
        if claim := behind[floor].unsettled(sample):
            yield sample, claim


class _Behind:
    """Transactions behind a position, in the order of their ends, and when each was settled."""

    def __init__(self, claims: Sequence[Claim], first: Mapping[int, float], floor: int) -> None:
        self._claims = sorted(
            (c for c in claims if c.fate == "committed" and c.after and c.before >= floor),
            key=lambda claim: claim.after,
        )
        self._ends = [claim.after for claim in self._claims]
        self._settled = [_settled(claim, first) for claim in self._claims]
        self._latest = list(accumulate(self._settled, max))

    def unsettled(self, sample: Sample) -> Claim | None:
        """A transaction that ended before the position, and was not settled at the time."""
        count = bisect.bisect_right(self._ends, sample.confirmed)
        if not count or self._latest[count - 1] <= sample.at:
            return None

        late = zip(self._claims, self._settled, strict=True)
        return next(claim for claim, at in late if at > sample.at)


def _settled(claim: Claim, first: Mapping[int, float]) -> float:
    times = (first.get(job.seq, float("inf")) for job in claim.jobs if not job.delayed)
    return max(times, default=0.0)
