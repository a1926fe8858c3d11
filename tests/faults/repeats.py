"""Work that was done twice, and whether it might have been."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

from tests.faults.sampler import Sample
from tests.faults.truth import Break, Claim, Execution


class Repeats:
    """Executions of one attempt of one job, each with the one before.

    It has a cause if something was broken in between that may undo work which was done so
    shortly before, or if the call ran at that time. What the server had confirmed does not
    come again, unless its slot was broken too.
    """

    def __init__(
        self,
        claims: Sequence[Claim],
        executions: Sequence[Execution],
        breaks: Sequence[Break],
        samples: Sequence[Sample],
        slots: Sequence[int],
    ) -> None:
        self._claims = claims
        self._executions = executions
        self._breaks = breaks
        self._samples = samples
        self._slots = sorted(slots)

    @cached_property
    def unexplained(self) -> list[tuple[Execution, Execution]]:
        return [pair for pair in self.pairs if not self._has_cause(*pair)]

    @cached_property
    def pairs(self) -> list[tuple[Execution, Execution]]:
        runs: dict[tuple[int, int], list[Execution]] = defaultdict(list)
        for run in self._executions:
            runs[run.seq, run.attempt].append(run)

        return [pair for same in runs.values() for pair in pairwise(same)]

    def between(self, first: Execution, second: Execution) -> list[Break]:
        """What was broken in between."""
        return [each for each in self._breaks if first.at <= each.until and each.at <= second.at]

    def _has_cause(self, first: Execution, second: Execution) -> bool:
        claim = self._places.get(first.seq) if first.attempt == 1 else None
        return any(
            each.again is not None
            and each.at - each.again <= first.at
            and first.began <= each.until + each.unnoticed
            and each.at <= second.at
            and not (claim and self._was_confirmed(claim, each))
            for each in self._breaks
        )

    def _was_confirmed(self, claim: Claim, broken: Break) -> bool:
        """Whether the server had said, before something was broken, that it may forget this."""
        if broken.resets:
            return False

        count = bisect_right(self._samples, broken.at, key=lambda sample: sample.at)
        confirmed = self._samples[count - 1].confirmed if count else 0
        # What was committed before the slot began may be about to be read from the table.
        begun = self._slots[: bisect_right(self._slots, confirmed)][-1:]
        return (begun or [0])[0] <= claim.before and claim.after <= confirmed

    @cached_property
    def _places(self) -> dict[int, Claim]:
        """The transactions of jobs that came to the log with them, and whose place is known."""
        return {
            job.seq: claim
            for claim in self._claims
            for job in claim.jobs
            if claim.after and not job.delayed
        }
