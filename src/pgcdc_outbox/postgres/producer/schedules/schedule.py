"""A schedule: what is enqueued, and when."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from msgspec import Struct

from pgcdc_outbox.core.recurrence import POLICIES, Missed
from pgcdc_outbox.errors import SettingsError
from pgcdc_outbox.postgres.producer.enqueue import Row, check
from pgcdc_outbox.postgres.producer.schedules.cron import Cron

_MAX_NAME_BYTES: Final = 255


class Schedule(Struct, frozen=True, kw_only=True):
    """A job that is enqueued at each time that a cron expression names.

    ``cron`` has five fields (minute, hour, day of month, month, day of week), or
    six with seconds first; its times are those of ``time_zone``, a name of the
    IANA database. ``missed`` says what becomes of times that passed while no
    consumer ran: ``"skip"`` none of them, ``"once"`` one job for the last of
    them, ``"all"`` one job for each. ``time_to_live`` is how long after its time
    a job may still be started. The other fields are those of a job.

    Raises `SettingsError` and `JobInvalid`, which name the field.
    """

    name: str
    cron: str
    payload: Any = None
    time_zone: str = "UTC"
    topic: str = "default"
    key: str | None = None
    headers: Mapping[str, str] | None = None
    missed: Missed = "once"
    time_to_live: timedelta | float | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.missed not in POLICIES:
            raise SettingsError(
                f"missed: {self.missed!r} is not known", hint=f"Use one of {', '.join(POLICIES)}."
            )

        if not isinstance(self.cron, str) or not isinstance(self.time_zone, str):
            raise SettingsError("cron, time_zone: give them as text")

        self.row()
        self.times().after(datetime.fromisoformat("2000-01-01T00:00:00+00:00"))

    def row(self) -> Row:
        """Its job, checked."""
        return check(
            self.payload, self.topic, self.key, self.headers, time_to_live=self.time_to_live
        )

    def times(self) -> Cron:
        """When it is due."""
        return Cron(self.cron, self.time_zone)


def check_name(name: str) -> str:
    """The name itself. Raises `SettingsError`."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise SettingsError(f"name: {name!r:.80} is no name", hint="Give a text that is not empty.")

    if len(name.encode("utf-8", "replace")) > _MAX_NAME_BYTES:
        raise SettingsError(f"name: it is longer than {_MAX_NAME_BYTES} bytes")

    return name


def columns(schedule: Schedule, now: datetime) -> dict[str, Any]:
    """What is written of it, the server's clock being at ``now``."""
    row = schedule.row()
    return {
        "name": schedule.name,
        "cron": schedule.cron,
        "time_zone": schedule.time_zone,
        "missed": schedule.missed,
        "topic": row.topic,
        "payload": row.payload,
        "key": row.key,
        "headers": row.headers,
        "content_type": row.content_type,
        "time_to_live": row.time_to_live,
        "next_at": schedule.times().after(now),
    }
