"""What became of a job: outcomes that a handler returns or raises."""

from datetime import timedelta

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
        seconds = after.total_seconds() if isinstance(after, timedelta) else after
        if seconds is not None and not 0 <= seconds <= _LONGEST:
            raise ValueError(f"after: must be from 0 to {_LONGEST:g} seconds, got {after!r}")

        super().__init__(error)
        # A float also if it was an int: delays of several jobs are recorded as one list.
        self.after = None if seconds is None else float(seconds)
        self.error = error

    def __repr__(self) -> str:
        return f"Retry(after={self.after!r}, error={self.error!r})"


class Dead(Outcome):
    """The job will never succeed: put it in the dead letters at once.

    ``reason`` is kept with it, and is what a person will read first.
    """

    def __init__(self, reason: str = "rejected") -> None:
        super().__init__(reason)
        self.reason = reason

    def __repr__(self) -> str:
        return f"Dead({self.reason!r})"
