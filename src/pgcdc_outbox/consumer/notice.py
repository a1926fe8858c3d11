"""Telling observers, whose mistakes must not become ours."""

import logging
from collections.abc import Sequence

from pgcdc_outbox.consumer.ports import Observer
from pgcdc_outbox.events import Event

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
