"""What a handler may know and do beside its payload."""

import logging
from collections.abc import Mapping, MutableMapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import anyio.from_thread
from msgspec import structs

from pgcdc_outbox.job import Job, NewJob

CORRELATION: Final = "correlation-id"
CAUSATION: Final = "causation-id"
INHERITED: Final = (CORRELATION, "traceparent", "tracestate")
"""Headers that follow-on jobs take over."""


class Enqueues(Protocol):
    """A unit of work, or a part of its transaction."""

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[int]:
        """Enqueue jobs; their ids, in the same order."""
        ...


class Context:
    """One job as its handler sees it: where it comes from, how long there is, what may follow."""

    __slots__ = ("_enqueues", "_logger", "deadline", "job")

    def __init__(
        self, job: Job, *, enqueues: Enqueues, logger: str, deadline: datetime | None = None
    ) -> None:
        self.job = job
        """The job, with its payload as bytes."""
        self.deadline = deadline
        """When the call is given up, by the clock of this machine; None without a ``timeout``."""
        self._enqueues = enqueues
        self._logger = logger

    @property
    def topic(self) -> str:
        """The topic as it was enqueued, whatever pattern took it."""
        return self.job.topic

    @property
    def attempt(self) -> int:
        """Which execution this is, from 1."""
        return self.job.attempt

    @property
    def headers(self) -> Mapping[str, Any]:
        """The headers of the job."""
        return self.job.headers

    @property
    def key(self) -> str | None:
        """The ordering key of the job."""
        return self.job.key

    @property
    def remaining(self) -> float | None:
        """Seconds until the deadline, not below 0; None without one."""
        if self.deadline is None:
            return None

        return max((self.deadline - datetime.now(UTC)).total_seconds(), 0.0)

    @property
    def logger(self) -> "logging.LoggerAdapter[logging.Logger]":
        """The logger of the handler's module; its records carry the fields of the job."""
        job = self.job
        return _JobLogger(
            logging.getLogger(self._logger),
            {"job_id": job.id, "topic": job.topic, "key": job.key, "attempt": job.attempt},
        )

    async def enqueue(self, payload: Any, **fields: Any) -> int:
        """Enqueue a job that follows from this one, and return its id.

        ``fields`` are those of `NewJob`. Headers say where it comes from:
        ``correlation-id`` is that of this job, or its id; ``causation-id`` is
        its id. What is given in ``headers`` goes before that. In a
        transactional handler it commits with the effects; otherwise at once.
        """
        (id_,) = await self.enqueue_many([NewJob(payload=payload, **fields)])
        return id_

    async def enqueue_many(self, jobs: Sequence[NewJob]) -> list[int]:
        """Enqueue several; all of them or none. Returns their ids in the same order."""
        return await self._enqueues.enqueue([follow_on(self.job, each) for each in jobs])

    def enqueue_sync(self, payload: Any, **fields: Any) -> int:
        """As `enqueue`, for sync handlers, which run in a thread."""
        (id_,) = self.enqueue_many_sync([NewJob(payload=payload, **fields)])
        return id_

    def enqueue_many_sync(self, jobs: Sequence[NewJob]) -> list[int]:
        """As `enqueue_many`, for sync handlers, which run in a thread."""
        return anyio.from_thread.run(self.enqueue_many, jobs)

    def __repr__(self) -> str:
        return f"Context({self.job!r})"


def follow_on(cause: Job, job: NewJob) -> NewJob:
    """The job, with headers that say what it follows from."""
    headers = {CORRELATION: str(cause.id), CAUSATION: str(cause.id)}
    for name in INHERITED:
        if isinstance(value := cause.headers.get(name), str):
            headers[name] = value

    return structs.replace(job, headers={**headers, **(job.headers or {})})


class _JobLogger(logging.LoggerAdapter[logging.Logger]):
    """Adds the fields of the job to those that a call gives itself."""

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs
