"""An observer that writes events to the log, each at the level it deserves."""

import logging

import msgspec

from pgcdc_outbox.events import (
    BatchHandled,
    BatchSettled,
    BatchStarted,
    CarefulBegan,
    CarefulEnded,
    CheckpointSaved,
    ChoreFailed,
    Disconnected,
    Event,
    HandlersAbandoned,
    JobCrashed,
    JobDead,
    JobsParked,
    JobsReleased,
    LogUnavailable,
    LoopStalled,
    Maintained,
    OrderGivenUp,
    OutcomesRecorded,
    PredecessorEnded,
    Reported,
    ServerDraining,
    SlotCreated,
    SlotReleased,
)

_QUIET = (
    BatchStarted,
    BatchHandled,
    BatchSettled,
    CheckpointSaved,
    JobsParked,
    JobsReleased,
    OutcomesRecorded,
    Reported,
)
_LOUD = (
    CarefulBegan,
    CarefulEnded,
    ChoreFailed,
    Disconnected,
    JobCrashed,
    JobDead,
    LogUnavailable,
    OrderGivenUp,
    PredecessorEnded,
    ServerDraining,
    SlotReleased,
)
_ALARMING = (HandlersAbandoned, LoopStalled)


class LogObserver:
    """Writes each event as one line: its name, and its fields."""

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or logging.getLogger("pgcdc_outbox")

    def __call__(self, event: Event) -> None:
        level = _level(event)
        if self._logger.isEnabledFor(level):
            fields = msgspec.structs.asdict(event)
            self._logger.log(
                level,
                "%s %s",
                type(event).__name__,
                " ".join(f"{name}={_plain(value)}" for name, value in fields.items()),
            )


def _level(event: Event) -> int:
    match event:
        case Maintained(kept=kept) if kept:
            return logging.WARNING
        case SlotCreated(reason=reason) if reason != "first start":
            return logging.WARNING
        case _ if isinstance(event, _QUIET):
            return logging.DEBUG
        case _ if isinstance(event, _LOUD):
            return logging.WARNING
        case _ if isinstance(event, _ALARMING):
            return logging.ERROR
        case _:
            return logging.INFO


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"

    text = str(value)
    return repr(text) if " " in text or not text else text
