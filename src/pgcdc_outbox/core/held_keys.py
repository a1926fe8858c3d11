"""Which keys are held, and for whom: who may pass, who has to be parked, who lets the next go."""

from collections.abc import Iterable, Sequence
from enum import Enum, auto

from msgspec import Struct

from pgcdc_outbox.core.verdict import Failure
from pgcdc_outbox.job import Job
from pgcdc_outbox.outcome import Dead


class HeldKey(Struct, frozen=True):
    """A key of which jobs are parked, or would be."""

    key: str
    id: int | None
    """The job that is to be finished first; None if somebody took it away."""
    until: int | None = None
    """Parked jobs up to this position were released, and that job is the last of them.

    None if it failed, and waits for its retry.
    """


class Finished(Struct, frozen=True):
    """A key whose next parked jobs may go, and the attempt that is done, if it was one."""

    key: str
    id: int | None = None
    attempt: int | None = None


class Turn(Enum):
    """When a job may run."""

    NOW = auto()
    """In this call."""
    NEXT = auto()
    """In a call of its own, after this one: it has a job of the same key."""
    PARKED = auto()
    """When another job of its key is done or dead."""


class HeldKeys:
    """The keys of one consumer whose order is strict. Knows nothing of the others.

    A key is held by a job that failed: this job alone passes. When it is done or
    dead, the first of the parked jobs are released, and the key is held by the
    last of these: they pass, and nobody else. And so on, until none is parked.
    """

    def __init__(self, held: Iterable[HeldKey] = ()) -> None:
        self._held = {each.key: each for each in held}

    def __len__(self) -> int:
        return len(self._held)

    def __getitem__(self, key: str) -> HeldKey:
        return self._held[key]

    def is_failed(self, key: str) -> bool:
        """Whether a job of this key waits for its retry: all others will be parked."""
        held = self._held.get(key)
        return held is not None and held.until is None

    def turns(self, jobs: Sequence[Job]) -> list[Turn]:
        """Say of each job of a batch when it may run."""
        turns = []
        keys: set[str] = set()
        for job in jobs:
            if not self._passes(job):
                turns.append(Turn.PARKED)
            elif job.key in keys:
                turns.append(Turn.NEXT)
            else:
                turns.append(Turn.NOW)
                if job.key is not None:
                    keys.add(job.key)

        return turns

    def settle(self, jobs: Sequence[Job], failures: Sequence[Failure]) -> list[Finished]:
        """Note what became of jobs that ran; returns the keys whose parked jobs may go on."""
        fates = {failure.job.id: failure.fate for failure in failures}
        finished = []
        for job in jobs:
            if job.key is None:
                continue

            if isinstance(fates.get(job.id, _DONE), Dead):
                if self._waits_for(job.key, job):
                    finished.append(Finished(job.key, job.id, job.attempt))
            else:
                self._held[job.key] = HeldKey(job.key, job.id)

        return finished

    def release(self, key: str, last: HeldKey | None) -> None:
        """Note that parked jobs were released, up to the last of them; with None it is free."""
        if last is None:
            self._held.pop(key, None)
        else:
            self._held[key] = last

    def _passes(self, job: Job) -> bool:
        held = None if job.key is None else self._held.get(job.key)
        if held is None or held.id == job.id:
            return True

        return held.until is not None and 0 < job.position <= held.until

    def _waits_for(self, key: str, job: Job) -> bool:
        held = self._held.get(key)
        return held is not None and held.id == job.id


# What is done is finished as well as what is dead.
_DONE = Dead("done")
