"""Handlers to be measured with: what they do with a batch is all they differ in."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from benchmarks.task import MARK, Sighting, Work
from pgcdc_outbox import Job, Retry, Router


class Handler:
    """Counts jobs, and does nothing else."""

    def __init__(self) -> None:
        self.jobs = 0
        self.sightings: list[Sighting] = []

    @property
    def given(self) -> Any:
        """What the consumer is given as its handler."""
        return self

    async def __call__(self, jobs: Sequence[Job]) -> Mapping[int, Retry] | None:
        self.jobs += len(jobs)
        return None


class ToFile(Handler):
    """Decodes JSON, and appends a line for each job to a file, written once for each batch."""

    def __init__(self) -> None:
        super().__init__()
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 -- as long as the process

    async def __call__(self, jobs: Sequence[Job]) -> None:
        self._file.write(b"".join(b"%d\n" % job.json()["order"] for job in jobs))
        self._file.flush()
        self.jobs += len(jobs)


class TenthFails(Handler):
    """Fails every tenth job, to be tried again in an hour."""

    async def __call__(self, jobs: Sequence[Job]) -> Mapping[int, Retry]:
        self.jobs += len(jobs)
        again = Retry(after=3600.0, error="it is the tenth")
        return {job.id: again for job in jobs if job.id % 10 == 0}


class Order(Struct):
    """What a payload is decoded into."""

    order: int


class Routed(Handler):
    """A router, whose async function gets one decoded job at a time and does nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._router = Router()

        @self._router.on("bench")
        async def handle(order: Order) -> None:
            self.jobs += 1

    @property
    def given(self) -> Router:
        return self._router


class Notes(Handler):
    """Notes when each job came, first of all."""

    async def __call__(self, jobs: Sequence[Job]) -> None:
        clock, monotonic = time.time_ns(), time.monotonic_ns()
        marks = [job.payload[: MARK.size] for job in jobs]
        self.sightings.append(Sighting(clock, monotonic, marks))
        self.jobs += len(jobs)


HANDLERS: Final[Mapping[Work, type[Handler]]] = {
    "nothing": Handler,
    "file": ToFile,
    "routed": Routed,
    "tenth fails": TenthFails,
    "note": Notes,
}


def make(work: Work) -> Handler:
    """A new one."""
    return HANDLERS[work]()
