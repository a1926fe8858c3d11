"""A transactional outbox for PostgreSQL: jobs committed with your rows, read from the log.

The names below are imported when they are first used, so that a producer does
not load the consumer, and ``--help`` loads neither.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgcdc_outbox.app import Consumer
    from pgcdc_outbox.core.retry import RetryPolicy
    from pgcdc_outbox.job import Job, NewJob
    from pgcdc_outbox.outcome import Dead, Done, Retry, Snooze
    from pgcdc_outbox.postgres.jobs.jobs import Jobs
    from pgcdc_outbox.postgres.jobs.replaying import Replay
    from pgcdc_outbox.postgres.partition.maintenance import Maintenance
    from pgcdc_outbox.postgres.producer.client import AsyncClient, Client
    from pgcdc_outbox.postgres.producer.schedules.schedule import Schedule
    from pgcdc_outbox.postgres.producer.schedules.schedules import Schedules
    from pgcdc_outbox.routing.context import Context
    from pgcdc_outbox.routing.router import Router

__all__ = [
    "AsyncClient",
    "Client",
    "Consumer",
    "Context",
    "Dead",
    "Done",
    "Job",
    "Jobs",
    "Maintenance",
    "NewJob",
    "Replay",
    "Retry",
    "RetryPolicy",
    "Router",
    "Schedule",
    "Schedules",
    "Snooze",
]

_HOMES = {
    "AsyncClient": "postgres.producer.client",
    "Client": "postgres.producer.client",
    "Consumer": "app",
    "Context": "routing.context",
    "Dead": "outcome",
    "Done": "outcome",
    "Job": "job",
    "Jobs": "postgres.jobs.jobs",
    "Maintenance": "postgres.partition.maintenance",
    "NewJob": "job",
    "Replay": "postgres.jobs.replaying",
    "Retry": "outcome",
    "RetryPolicy": "core.retry",
    "Router": "routing.router",
    "Schedule": "postgres.producer.schedules.schedule",
    "Schedules": "postgres.producer.schedules.schedules",
    "Snooze": "outcome",
}


def __getattr__(name: str) -> Any:
    if (home := _HOMES.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
