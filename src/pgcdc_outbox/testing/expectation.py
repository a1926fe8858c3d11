"""What a test expects to be enqueued, and how it is told what is there instead."""

from collections.abc import Mapping, Sequence
from types import EllipsisType
from typing import Any, Final

from msgspec import Struct

from pgcdc_outbox.errors import PayloadInvalid
from pgcdc_outbox.testing.enqueued import EnqueuedJob
from pgcdc_outbox.testing.matching import differences, shown

_SHOWN_JOBS: Final = 5


class Expectation(Struct, frozen=True, kw_only=True):
    """What is asked of a job; what is left out is not asked."""

    topic: str | None = None
    payload: Any = ...
    key: str | None = None
    headers: Mapping[str, str] | None = None

    def found(self, jobs: Sequence[EnqueuedJob], count: int | None) -> list[EnqueuedJob]:
        """The jobs that fit. Raises `AssertionError` for none, or for another number of them."""
        __tracebackhide__ = True  # pytest then ends its traceback in the test
        fitting = self._fitting(jobs)
        if len(fitting) == count or (count is None and fitting):
            return fitting

        if fitting:
            raise AssertionError(
                f"{len(fitting)} jobs were enqueued with {self}, expected {count}:\n"
                + "\n".join(f"  {job!r}" for job in fitting[:_SHOWN_JOBS])
            )

        raise AssertionError(f"no job was enqueued with {self}\n{self._nearest(jobs)}")

    def not_found(self, jobs: Sequence[EnqueuedJob]) -> None:
        """Raise `AssertionError` if a job fits."""
        __tracebackhide__ = True
        if fitting := self._fitting(jobs):
            raise AssertionError(
                f"{_jobs(len(fitting))} enqueued with {self}, expected none:\n"
                + "\n".join(f"  {job!r}" for job in fitting[:_SHOWN_JOBS])
            )

    def __str__(self) -> str:
        asked = {"topic": self.topic, "key": self.key, "headers": self.headers}
        parts = [f"{name}={shown(value)}" for name, value in asked.items() if value is not None]
        if not isinstance(self.payload, EllipsisType):
            parts.append(f"payload={shown(self.payload)}")

        return ", ".join(parts) or "any content"

    def _fitting(self, jobs: Sequence[EnqueuedJob]) -> list[EnqueuedJob]:
        return [job for job in jobs if not self._differences(job)]

    def _differences(self, job: EnqueuedJob) -> list[str]:
        found: list[str] = []
        if self.topic is not None:
            found += differences(self.topic, job.topic, "topic")

        if self.key is not None:
            found += differences(self.key, job.key, "key")

        if self.headers is not None:
            found += differences(self.headers, job.headers, "headers")

        if not isinstance(self.payload, EllipsisType):
            found += differences(self.payload, self._body(job))

        return found

    def _body(self, job: EnqueuedJob) -> Any:
        if isinstance(self.payload, bytes):
            return job.payload

        try:
            return job.json()
        except PayloadInvalid:
            return job.payload

    def _nearest(self, jobs: Sequence[EnqueuedJob]) -> str:
        if not jobs:
            return (
                "There are no jobs at all. (Those of a transaction that is still open are only "
                "seen with tx=, from inside it.)"
            )

        judged = sorted(((self._differences(job), job) for job in jobs), key=self._distance)
        lines = [f"{_jobs(len(jobs))} enqueued; the nearest first:"]
        for found, job in judged[:_SHOWN_JOBS]:
            lines += [f"  job {job.id}, topic {job.topic!r}:", *(f"    {line}" for line in found)]

        if len(judged) > _SHOWN_JOBS:
            lines.append(f"  and {len(judged) - _SHOWN_JOBS} more")

        return "\n".join(lines)

    def _distance(self, judged: tuple[list[str], EnqueuedJob]) -> tuple[bool, int, int]:
        found, job = judged
        return self.topic is not None and job.topic != self.topic, len(found), job.id


def _jobs(count: int) -> str:
    return "1 job was" if count == 1 else f"{count} jobs were"
