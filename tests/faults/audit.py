"""Does the truth agree with what is promised?

Each rule gives what speaks against it, with the evidence.
"""

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from functools import cached_property
from itertools import islice, pairwise

from pgcdc_outbox.core.lanes import Ordering
from tests.faults.positions import moved_back, passed_unsettled
from tests.faults.repeats import Repeats
from tests.faults.sampler import Sample
from tests.faults.truth import Body, Break, Claim, Execution, Fate

# What is told of each rule that looks through everything for each case.
_ENOUGH = 20


class Audit:
    """Everything that is known at the end of a scenario.

    - ``dead``: the dead letters, seq and the attempt that was the last;
    - ``ordered``: whether first attempts had to start in the order of the commits of their key;
    - ``ordering``: what was promised about the jobs of one key, as `Consumer` calls it;
    - ``slots``: where slots began;
    - ``crashed``: ids of jobs that ran when a careful consumer was killed, and lost an
      attempt by it.
    """

    def __init__(
        self,
        claims: Sequence[Claim],
        executions: Sequence[Execution],
        *,
        breaks: Sequence[Break] = (),
        dead: Mapping[int, int] | None = None,
        max_attempts: int,
        ordered: bool = True,
        ordering: Ordering = "none",
        samples: Sequence[Sample] = (),
        slots: Sequence[int] = (),
        crashed: Set[int] = frozenset(),
    ) -> None:
        self._claims = claims
        self._executions = executions
        self._breaks = breaks
        self._dead = dead or {}
        self._max_attempts = max_attempts
        self._ordered = ordered
        self._ordering = ordering
        self._samples = samples
        self._slots = slots
        self._crashed = {run.seq for run in executions if run.id in crashed}
        # A job that is parked is settled without an execution: the log may be passed, and
        # it comes again from another place, which nobody here knows.
        self._claims_with_places = () if ordering == "strict_key" else claims
        self._repeats = Repeats(self._claims_with_places, executions, breaks, samples, slots)

    @cached_property
    def violations(self) -> list[str]:
        """What speaks against the promises; empty if nothing does."""
        rules = (
            self._lost,
            self._invented,
            self._halves,
            self._miscounted,
            self._wrongly_dead,
            self._repeated,
            self._misplaced,
            self._met,
            self._overtaken,
            self._moved_back,
            self._forgotten,
        )
        return [text for rule in rules for text in rule()]

    @property
    def account(self) -> dict[str, int]:
        """The closing account."""
        committed, rolled_back = self._of("committed"), self._of("rolled back")
        handled = {run.seq for run in self._executions}
        return {
            "committed": len(committed),
            "handled": len(committed.keys() & handled),
            "dead": len(self._dead),
            "lost": len(self._missing()),
            "rolled back": len(rolled_back),
            "rolled back handled": len(rolled_back.keys() & handled),
            "in doubt": len(self._of("in doubt")),
            "executions": len(self._executions),
            "repeats explained": len(self._repeats.pairs) - len(self._repeats.unexplained),
            "repeats unexplained": len(self._repeats.unexplained),
            "positions sampled": len(self._samples),
        }

    # No committed job is lost, and no other is handled.

    def _missing(self) -> list[Body]:
        done = {run.seq for run in self._executions if not run.failed}
        return missing(self._of("committed"), done, self._dead, self._max_attempts)

    def _lost(self) -> Iterator[str]:
        for job in islice(self._missing(), _ENOUGH):
            claim = next(claim for claim in self._claims if job in claim.jobs)
            runs = [run for run in self._executions if run.seq == job.seq]
            before = [each for each in self._breaks if each.at <= claim.at][-1:]
            after = [each for each in self._breaks if each.at > claim.at][:1]
            yield f"lost: {job} of {claim}; executed: {runs}; broken: {before + after}"

    def _invented(self) -> Iterator[str]:
        known = self._of("committed") | self._of("in doubt")
        for run in self._executions:
            if run.seq not in known:
                yield f"handled, but never committed: {run}"

    def _halves(self) -> Iterator[str]:
        handled = {run.seq for run in self._executions}
        for claim in self._claims:
            seqs = {job.seq for job in claim.jobs}
            if claim.fate == "in doubt" and 0 < len(seqs & handled) < len(seqs):
                yield f"half of a transaction was handled: {sorted(seqs & handled)} of {claim}"

    # Attempts are counted exactly.

    def _miscounted(self) -> Iterator[str]:
        jobs = self._of("committed") | self._of("in doubt")
        attempts: dict[int, set[int]] = defaultdict(set)
        for run in self._executions:
            attempts[run.seq].add(run.attempt)

        for seq, seen in attempts.items():
            job = jobs.get(seq)
            if job and seq not in self._crashed and seen != set(range(1, self._last(job) + 1)):
                yield f"attempts {sorted(seen)} were made of {job}"

    def _wrongly_dead(self) -> Iterator[str]:
        jobs = self._of("committed") | self._of("in doubt")
        for seq, attempt in self._dead.items():
            job = jobs.get(seq)
            if seq in self._crashed:
                continue

            if job is None or self._last(job) != attempt or job.fails < attempt:
                yield f"dead after attempt {attempt}: {job or seq}"

    # What was done comes again only where it may.

    def _repeated(self) -> Iterator[str]:
        for first, second in self._repeats.unexplained:
            between = self._repeats.between(first, second)
            yield f"repeated without a cause: {first}, then {second}; between: {between}"

    # First attempts start in the order of the commits of their producer.

    def _misplaced(self) -> Iterator[str]:
        if not self._ordered:
            return

        highest: dict[str, Execution] = {}
        seen: set[int] = set()
        for run in self._executions:
            if run.attempt > 1 or run.key is None or run.seq in seen or run.seq in self._delayed:
                continue

            seen.add(run.seq)
            last = highest.get(run.key)
            if last is not None and last.seq > run.seq:
                yield f"out of order: {run} after {last}"
            else:
                highest[run.key] = run

    # Jobs of one key never run at the same time, unless nobody could have told.

    def _met(self) -> Iterator[str]:
        if self._ordering == "none":
            return

        for runs in self._by_key().values():
            runs.sort(key=lambda run: run.began)
            for first, second in pairwise(runs):
                shared = (first.pid, first.began) == (second.pid, second.began)
                met = second.began < first.at and not (shared and self._ordering == "key")
                if met and not self._was_left_running(first, second):
                    yield f"ran at the same time: {first}, and {second}"

    def _was_left_running(self, first: Execution, second: Execution) -> bool:
        """Whether a process went on, or left a call running, because it had lost its hold."""
        return any(
            each.unnoticed and first.began <= each.until + each.unnoticed and each.at <= second.at
            for each in self._breaks
        )

    # With strict order a job starts when those before it are done or dead.

    def _overtaken(self) -> Iterator[str]:
        if self._ordering != "strict_key":
            return

        jobs = self._of("committed")
        for runs in self._by_key().values():
            ended: dict[int, float] = {}
            for run in runs:
                if not run.failed or run.attempt >= self._max_attempts:
                    ended[run.seq] = min(run.at, ended.get(run.seq, run.at))

            known = {run.seq for run in runs if not self._is_delayed(run)}
            order = sorted(known)
            for run in runs:
                if run.seq not in known or run.seq in self._crashed:
                    continue

                for seq in order[: bisect_left(order, run.seq)]:
                    if (
                        seq in jobs
                        and seq not in self._crashed
                        and ended.get(seq, math.inf) > run.began
                    ):
                        yield f"started before {jobs[seq]} was done or dead: {run}"
                        break

    def _is_delayed(self, run: Execution) -> bool:
        return run.seq in self._delayed

    @cached_property
    def _delayed(self) -> set[int]:
        return {job.seq for claim in self._claims for job in claim.jobs if job.delayed}

    def _by_key(self) -> dict[str, list[Execution]]:
        by_key: dict[str, list[Execution]] = defaultdict(list)
        for run in self._executions:
            if run.key is not None:
                by_key[run.key].append(run)

        return by_key

    # The slot never moves back, and never passes a transaction with an unsettled job.

    def _moved_back(self) -> Iterator[str]:
        for before, after in moved_back(self._samples, self._breaks):
            yield f"the slot moved back: {before}, then {after}"

    def _forgotten(self) -> Iterator[str]:
        found = passed_unsettled(
            self._samples, self._claims_with_places, self._executions, self._slots
        )
        for sample, claim in found:
            yield f"the slot passed jobs that were not settled: {sample}, {claim}"

    def _of(self, fate: Fate) -> dict[int, Body]:
        return {job.seq: job for claim in self._claims if claim.fate == fate for job in claim.jobs}

    def _last(self, job: Body) -> int:
        return min(job.fails + 1, self._max_attempts)


def missing(
    jobs: Mapping[int, Body], done: Set[int], dead: Mapping[int, int], max_attempts: int
) -> list[Body]:
    """The jobs that did not come to their end yet: success, or the dead letters."""
    ends = (dead.keys(), done)
    return [job for job in jobs.values() if job.seq not in ends[job.fails < max_attempts]]
