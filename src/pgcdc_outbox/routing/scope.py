"""What the calls of one unit of work share."""

from datetime import datetime
from typing import Any

from pgcdc_outbox.consumer.ports import UnitOfWork
from pgcdc_outbox.job import Job
from pgcdc_outbox.routing.context import Context, Enqueues


class Scope:
    """Where the arguments of a call come from that are not in the job."""

    __slots__ = ("connections", "deadline", "enqueues", "unit")

    def __init__(
        self,
        unit: UnitOfWork,
        enqueues: Enqueues | None = None,
        connections: dict[type, Any] | None = None,
        deadline: datetime | None = None,
    ) -> None:
        self.unit = unit
        self.enqueues: Enqueues = unit if enqueues is None else enqueues
        self.connections = connections or {}
        self.deadline = deadline

    def until(self, deadline: datetime) -> "Scope":
        """The same, for a call that is given up at a moment."""
        return Scope(self.unit, self.enqueues, self.connections, deadline)

    def context(self, job: Job, *, logger: str) -> Context:
        """The context of one job."""
        return Context(job, enqueues=self.enqueues, logger=logger, deadline=self.deadline)
