"""Which times of a schedule are due, and which of those that were missed are made up for."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final, Literal, get_args

from msgspec import Struct

Missed = Literal["skip", "once", "all"]
"""What becomes of times that passed while nothing ran: nothing, one job for all, one for each."""

POLICIES: Final = get_args(Missed)

# Nobody is punctual to the second: what is fired within this was not missed.
LATE: Final = timedelta(minutes=1)

# How far back the last time before now is looked for, in steps that get longer, so that
# a schedule of every second that was down for a month costs no more than any other.
_STEPS: Final = (
    timedelta(minutes=1),
    timedelta(hours=1),
    timedelta(days=1),
    timedelta(days=31),
    timedelta(days=366),
)

After = Callable[[datetime], datetime]
"""The first time of the schedule after a moment."""


class Due(Struct, frozen=True):
    """What is to be done about a schedule now."""

    times: list[datetime]
    """Those for which a job is to be enqueued, in order."""
    next_at: datetime
    """The first one that is left. It may be due as well, if there were too many."""


def due(next_at: datetime, now: datetime, missed: Missed, after: After, *, limit: int) -> Due:
    """What a schedule asks for whose next time has come; ``limit`` times at most."""
    if missed == "all":
        return _each(next_at, now, after, limit)

    last = _last(next_at, now, after)
    times = [] if missed == "skip" and now - last > LATE else [last]
    return Due(times, after(now))


def _each(next_at: datetime, now: datetime, after: After, limit: int) -> Due:
    times: list[datetime] = []
    while next_at <= now and len(times) < limit:
        times.append(next_at)
        next_at = after(next_at)

    return Due(times, next_at)


def _last(first: datetime, now: datetime, after: After) -> datetime:
    """The last time up to now, which is ``first`` or one behind it."""
    for step in _STEPS:
        if now - step <= first:
            break

        if (found := after(now - step)) <= now:
            first = found
            break

    while (following := after(first)) <= now:
        first = following

    return first
