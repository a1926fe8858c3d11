"""Work that was done twice, and whether it might have been."""

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

from tests.faults.truth import Break, Claim, Execution


class Repeats:
    """Executions of one attempt of one job, each with the one before.

    It has a cause if something was broken in between that may undo work which was done so
    shortly before, and had not been told to the server; or if the call ran at that time.
    """

    def __init__(
        self, claims: Sequence[Claim], executions: Sequence[Execution], breaks: Sequence[Break]
    ) -> None:
        self._claims = claims
        self._executions = executions
        self._breaks = breaks

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
        end = self._ends.get(first.seq, 0) if first.attempt == 1 else 0
        return any(
            each.again is not None
            and each.at - each.again <= first.at
            and first.began <= each.until + each.unnoticed
            and each.at <= second.at
            and not 0 < end <= each.reported
            for each in self._breaks
        )

    @cached_property
    def _ends(self) -> dict[int, int]:
        """Where the transaction of a job ended in the log; not of those that were delayed."""
        return {job.seq: c.after for c in self._claims for job in c.jobs if not job.delayed}
