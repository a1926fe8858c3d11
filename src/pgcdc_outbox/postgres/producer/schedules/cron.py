"""Cron expressions, in a time zone. The library that reads them is loaded when one is there."""

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pgcdc_outbox.errors import SettingsError


class Cron:
    """The times that an expression names in a time zone.

    Of a time that a clock put forward leaves out, the end of the gap is taken; of
    one that comes twice, the first. An expression for each hour, or each minute,
    goes on by real time. Raises `SettingsError` for what nobody understands, and
    for an expression that names no time at all.
    """

    def __init__(self, expression: str, time_zone: str) -> None:
        self._simulate, self._error = _library()
        self._expression = expression
        self._zone = _zone(time_zone)
        self._start(datetime(2000, 1, 1, tzinfo=UTC))

    def after(self, moment: datetime) -> datetime:
        """The first time after a moment, in UTC."""
        for found in self._start(moment):
            # By the wall clock alone it may lie before: an hour that comes twice.
            instant: datetime = found.astimezone(UTC)
            if instant > moment:
                return instant

        raise SettingsError(f"cron: {self._expression!r} names no time")

    def _start(self, moment: datetime) -> Any:
        try:
            return self._simulate(self._expression, moment.astimezone(self._zone))
        except self._error as error:
            raise SettingsError(
                f"cron: {self._expression!r} is not understood: {error}",
                hint="Five fields: minute, hour, day of month, month, day of week; "
                "such as '30 7 * * MON-FRI'.",
            ) from None


def _library() -> tuple[Any, type[Exception]]:
    try:
        from cronsim import CronSim, CronSimError
    except ImportError:
        raise SettingsError(
            "cron: the library that reads cron expressions is not installed",
            hint="pip install 'pgcdc-outbox[cron]'",
        ) from None

    return CronSim, CronSimError


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise SettingsError(
            f"time_zone: {name!r} is not known here",
            hint="Give a name of the IANA database, such as Europe/Athens; where the system "
            "has none of it: pip install tzdata.",
        ) from None
