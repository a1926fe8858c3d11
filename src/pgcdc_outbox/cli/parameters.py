"""What people write on the command line for durations and moments."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import click

_UNITS: Final[dict[str, timedelta]] = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "sec": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "min": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)\s*")


def duration(text: str | timedelta) -> timedelta:
    """Read ``15min``, ``1h``, ``7d`` or ``1h30m``."""
    if isinstance(text, timedelta):  # a default
        return text

    total, position = timedelta(), 0
    cleaned = text.strip().lower()
    while match := _PART.match(cleaned, position):
        number, unit = match.groups()
        if unit not in _UNITS:
            raise click.BadParameter(f"{text!r}: the units are {', '.join(_UNITS)}.")

        try:
            total += float(number) * _UNITS[unit]
        except OverflowError:
            raise click.BadParameter(f"{text!r} is too long.") from None

        position = match.end()

    if not cleaned or position != len(cleaned):
        raise click.BadParameter(f"{text!r} is not a duration such as 15min, 1h or 7d.")

    return total


def moment(text: str) -> datetime:
    """Read ISO 8601; UTC unless it says otherwise."""
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a moment such as 2026-11-21T09:30Z.") from None

    return read if read.tzinfo is not None else read.replace(tzinfo=UTC)


def header(text: str) -> tuple[str, str]:
    """Read ``name=value``."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.BadParameter(f"{text!r} is not name=value.")

    return name, value


def size(text: str | int) -> int:
    """Read ``256MB`` or a number of bytes."""
    if isinstance(text, int):  # a default
        return text

    from pgcdc_outbox.postgres.report.lag import parse_size

    try:
        return parse_size(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from None
