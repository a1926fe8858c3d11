"""When a job runs, and until when: moments as they are given, and as they are sent. Pure."""

from datetime import UTC, datetime, timedelta
from numbers import Real
from typing import Final

from pgcdc_outbox.errors import JobInvalid

MAX_DELAY: Final = timedelta(days=365_250)

Moment = tuple[datetime | None, float | None]
"""An instant in UTC, or seconds; neither says nothing."""


def moment(
    at_field: str, at: datetime | None, after_field: str, after: timedelta | float | None
) -> Moment:
    """A moment that may be given in two ways, and is given in one at most."""
    if at is not None and after is not None:
        raise JobInvalid(f"{at_field}, {after_field}: both are given", hint="Give one of them.")

    return (
        None if at is None else _instant(at_field, at),
        None if after is None else seconds(after_field, after),
    )


def check_end(start: Moment, end: Moment, time_to_live: timedelta | float | None) -> None:
    """Raise `JobInvalid` for a job that would never run."""
    if time_to_live is not None and end[1] is None:
        raise JobInvalid("time_to_live: is nothing", hint="Leave it out: the job never expires.")

    if start[0] is not None and end[0] is not None and end[0] <= start[0]:
        raise JobInvalid("expires_at: is not after run_at, so that the job would never run")


def _instant(field: str, at: datetime) -> datetime:
    """The instant in UTC. Raises `JobInvalid`."""
    if not isinstance(at, datetime):
        raise JobInvalid(f"{field}: a {type(at).__name__} is given", hint="Give an aware datetime.")

    if at.utcoffset() is None:
        raise JobInvalid(
            f"{field}: {at.isoformat()} has no time zone",
            hint="Use datetime.now(UTC) + ..., or datetime(..., tzinfo=ZoneInfo('...')).",
        )

    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise JobInvalid(f"{field}: {at.isoformat()} is out of range in UTC") from None


def seconds(field: str, after: timedelta | float) -> float | None:
    """Seconds above zero; None for zero. Raises `JobInvalid`."""
    number = after.total_seconds() if isinstance(after, timedelta) else after
    if isinstance(number, bool) or not isinstance(number, Real):
        raise JobInvalid(
            f"{field}: a {type(after).__name__} is given", hint="Give a timedelta, or seconds."
        )

    # NaN fails the comparison too. Compared before converting: a huge int would overflow.
    if not 0 <= number <= MAX_DELAY.total_seconds():
        raise JobInvalid(
            f"{field}: {after!r:.80} is not within 0 and {MAX_DELAY.days} days",
            hint="Give seconds that are finite and not negative; 0 means at once.",
        )

    return float(number) or None
