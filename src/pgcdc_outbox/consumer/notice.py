"""Telling observers, whose mistakes must not become ours."""

import logging
from collections.abc import Sequence

from pgcdc_outbox.consumer.ports import Observer
from pgcdc_outbox.core.verdict import Failure
from pgcdc_outbox.events import Event, JobDead, OutcomesRecorded
from pgcdc_outbox.outcome import Dead, Snooze

_log = logging.getLogger("pgcdc_outbox")


class Notice:
    """Tells every observer of an event; an observer that raises is logged, not obeyed."""

    __slots__ = ("_observers",)

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def __call__(self, event: Event) -> None:
        for observer in self._observers:
            try:
                observer(event)
            except Exception:
                _log.exception("an observer failed on %s", type(event).__name__)


def tell_failures(failures: Sequence[Failure], *, consumer: str, notice: Notice) -> None:
    """Tell of failures that are recorded."""
    if not failures:
        return

    dead = [failure for failure in failures if isinstance(failure.fate, Dead)]
    snoozed = sum(isinstance(failure.fate, Snooze) for failure in failures)
    notice(
        OutcomesRecorded(
            consumer=consumer,
            retried=len(failures) - len(dead) - snoozed,
            dead=len(dead),
            snoozed=snoozed,
        )
    )
    for failure in dead:
        notice(
            JobDead(
                consumer=consumer,
                id=failure.job.id,
                topic=failure.job.topic,
                reason=str(failure.fate),
            )
        )
