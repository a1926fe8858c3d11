"""What became of a job: outcomes that a handler returns or raises."""

from datetime import UTC, datetime, timedelta

# About 31 years. PostgreSQL cannot add much more to a date, and a delay that it
# refuses could never be recorded.
_LONGEST = 1e9


class Outcome(Exception):
    """The fate of one job. May be returned by id, or raised by a call that has only one job.

    Raised by a call that has several, it is an error like any other: nobody
    knows which of them it is about, so each comes back alone.
    """


class Done(Outcome):
    """The job is finished."""

    def __repr__(self) -> str:
        return "Done()"


class Retry(Outcome):
    """The job failed and should be tried again.

    ``after`` is the delay, a timedelta or seconds; without it the retry policy
    decides. The attempt counts: at the last one the job is dead-lettered.
    Raises `ValueError` for a delay that is negative or above 1e9 seconds.
    """

    def __init__(self, after: timedelta | float | None = None, error: str = "") -> None:
        super().__init__(error)
        self.after = None if after is None else _seconds(after)
        self.error = error

    def __repr__(self) -> str:
        return f"Retry(after={self.after!r}, error={self.error!r})"


class Snooze(Outcome):
    """It is not the time for this job yet: put it off.

    ``until`` is an aware datetime, ``after`` a timedelta or seconds, both by the
    clock of the server; one of them is given. A moment that has passed means at
    once. This is no failure: the attempt does not count, and leaves no error.
    Raises `ValueError` for a naive datetime, and for a delay that is negative or
    above 1e9 seconds.
    """

    def __init__(
        self, until: datetime | None = None, *, after: timedelta | float | None = None
    ) -> None:
        if (until is None) == (after is None):
            raise ValueError("until, after: give one of them")

        if until is not None and not isinstance(until, datetime):
            raise ValueError(f"until: a {type(until).__name__} is given; give an aware datetime")

        if until is not None and until.utcoffset() is None:
            raise ValueError(f"until: {until.isoformat()} has no time zone")

        super().__init__("put off")
        self.until = None if until is None else until.astimezone(UTC)
        self.after = None if after is None else _seconds(after)

    def __repr__(self) -> str:
        given = f"after={self.after!r}" if self.until is None else f"until={self.until!r}"
        return f"Snooze({given})"


class Dead(Outcome):
    """The job will never succeed: put it in the dead letters at once.

    ``reason`` is kept with it, and is what a person will read first.
    """

    def __init__(self, reason: str = "rejected") -> None:
        super().__init__(reason)
        self.reason = reason

    def __repr__(self) -> str:
        return f"Dead({self.reason!r})"


def _seconds(after: timedelta | float) -> float:
    seconds = after.total_seconds() if isinstance(after, timedelta) else after
    if not 0 <= seconds <= _LONGEST:
        raise ValueError(f"after: must be from 0 to {_LONGEST:g} seconds, got {after!r}")

    # Also an int as a float: delays of several jobs are recorded as one list.
    return float(seconds)
