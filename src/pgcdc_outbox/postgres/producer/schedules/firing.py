"""The chore of enqueueing what the schedules ask for."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pgcdc_outbox.consumer.notice import Notice
from pgcdc_outbox.core.recurrence import Due, due
from pgcdc_outbox.errors import SettingsError
from pgcdc_outbox.events import ChoreFailed, SchedulesFired
from pgcdc_outbox.postgres.producer.schedules.cron import Cron
from pgcdc_outbox.postgres.producer.schedules.schedule import Schedule, columns
from pgcdc_outbox.postgres.producer.schedules.schedules import moment
from pgcdc_outbox.postgres.queries import query
from pgcdc_outbox.postgres.session import Session
from pgcdc_outbox.postgres.statements import Row

# A schedule that somebody else puts is noticed within this.
_LOOK_SECONDS: Final = 1.0
_SCHEDULES: Final = 100
_TIMES: Final = 1000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Firing:
    """Enqueues what is due, whatever consumer it is that comes first.

    What is due is found, thought about here, and then enqueued by one statement
    that also moves the next time, and does nothing about a schedule whose next
    time has moved meanwhile. So each time is fired once. All times are the
    server's.
    """

    name = "enqueue what schedules ask for"

    def __init__(
        self,
        session: Session,
        *,
        consumer: str,
        schema: str,
        declared: Sequence[Schedule],
        notice: Notice,
    ) -> None:
        self._session = session
        self._consumer = consumer
        self._schema = schema
        self._to_put = list(declared)
        self._broken: set[Row] = set()
        self._notice = notice

    async def once(self) -> float:
        """Put what was declared, fire what is due; return when to look again."""
        while self._to_put:
            await self._put(self._to_put[0])
            del self._to_put[0]

        found = await self._rows("next_recurring", {"limit": _SCHEDULES})
        rows = [row for row in found if row[:3] not in self._broken]
        if not rows:
            return _LOOK_SECONDS

        *_, first_us, now_us = rows[0]
        if first_us > now_us:
            return min(_LOOK_SECONDS, float(first_us - now_us) / 1e6)

        await self._fire([row for row in rows if row[-2] <= row[-1]])
        return 0.0

    async def all(self) -> None:
        """Fire everything that is due by now."""
        while not await self.once():
            pass

    async def _put(self, schedule: Schedule) -> None:
        ((now_us,),) = await self._rows("server_clock", {})
        await self._rows("put_recurring", columns(schedule, moment(now_us)))

    async def _fire(self, rows: Sequence[Row]) -> None:
        chosen: list[tuple[Row, Due]] = []
        for row in rows:
            try:
                chosen.append((row, _judged(row)))
            except SettingsError as error:
                self._leave(row, error)

        if chosen:
            ((count,),) = await self._rows("fire_recurring", _parameters(chosen))
            if count:
                self._notice(SchedulesFired(consumer=self._consumer, jobs=count))

    def _leave(self, row: Row, error: SettingsError) -> None:
        """Go on without one that makes no sense here; it is told once.

        It was written by hand, or where a library or a zone is known that is not here.
        """
        self._broken.add(row[:3])
        self._notice(
            ChoreFailed(
                consumer=self._consumer,
                chore=self.name,
                error=f"schedule {row[0]}: {error}. {error.hint}",
                delay_seconds=_LOOK_SECONDS,
            )
        )

    async def _rows(self, name: str, params: dict[str, Any]) -> list[Row]:
        return await self._session.rows(query(name, self._schema), params, doing=self.name)


def _judged(row: Row) -> Due:
    _, cron, time_zone, missed, next_us, now_us = row
    times = Cron(cron, time_zone)
    return due(moment(next_us), moment(now_us), missed, times.after, limit=_TIMES)


def _parameters(chosen: Sequence[tuple[Row, Due]]) -> dict[str, Any]:
    return {
        "names": [row[0] for row, _ in chosen],
        "crons": [row[1] for row, _ in chosen],
        "time_zones": [row[2] for row, _ in chosen],
        "due_us": [row[4] for row, _ in chosen],
        "next_us": [_us(each.next_at) for _, each in chosen],
        "fired": [row[0] for row, each in chosen for _ in each.times],
        "times_us": [_us(at) for _, each in chosen for at in each.times],
    }


def _us(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)
