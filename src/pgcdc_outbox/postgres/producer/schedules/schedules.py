"""The schedules of an outbox, as a person or a deployment keeps them."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from msgspec import Struct
from psycopg import Connection

from pgcdc_outbox.core.recurrence import Missed
from pgcdc_outbox.postgres.connection import Row, run, session
from pgcdc_outbox.postgres.conninfo import of_environment
from pgcdc_outbox.postgres.migrate import check_schema
from pgcdc_outbox.postgres.producer.schedules.cron import Cron
from pgcdc_outbox.postgres.producer.schedules.schedule import Schedule, check_name, columns

_DOING = "keep the schedules"


class Recurring(Struct, frozen=True, kw_only=True):
    """A schedule, as it stands in the database."""

    name: str
    cron: str
    time_zone: str
    missed: Missed
    topic: str
    key: str | None
    body: str
    """The payload as text: JSON as it is, anything else in hex."""
    time_to_live: timedelta | None
    paused: bool
    next_at: datetime
    """When it is due next."""
    last_at: datetime | None
    """The time for which it was enqueued last."""
    last_id: int | None
    """The job that was enqueued last."""


class Schedules:
    """Puts, lists, pauses and removes schedules.

    Without ``conninfo`` the environment tells: ``PGCDC_OUTBOX_DSN``, else libpq's
    own variables. A running consumer of the outbox enqueues the jobs. Everything
    raises `OutboxError`.
    """

    def __init__(self, conninfo: str | None = None, *, schema: str = "outbox") -> None:
        check_schema(schema)
        self._conninfo = of_environment() if conninfo is None else conninfo
        self._schema = schema

    def put(self, schedule: Schedule) -> None:
        """Make a schedule, or bring the one of its name up to date.

        Putting the same again changes nothing. Only another expression or time
        zone moves its next time; whether it is paused is left as it is.
        """
        with session(self._conninfo, doing=_DOING) as connection:
            values = columns(schedule, self._now(connection))
            run(connection, "put_recurring", self._schema, **values)

    def list(self) -> Sequence[Recurring]:
        """All of them, by name."""
        with session(self._conninfo, doing=_DOING) as connection:
            rows = run(connection, "list_recurring", self._schema).fetchall()

        return msgspec.convert(rows, tuple[Recurring, ...])

    def remove(self, name: str) -> bool:
        """Remove a schedule; whether there was one. Jobs that it enqueued stay."""
        return self._changed("remove_recurring", name)

    def pause(self, name: str) -> bool:
        """Let a schedule rest; whether there is one. Its times pass meanwhile."""
        return self._changed("pause_recurring", name)

    def resume(self, name: str) -> bool:
        """Let a schedule go on with its next time; whether there is one.

        The times that passed while it was paused are not made up for.
        """
        check_name(name)
        with session(self._conninfo, doing=_DOING) as connection:
            found = run(connection, "find_recurring", self._schema, name=name).fetchone()
            if found is None:
                return False

            next_at = Cron(found["cron"], found["time_zone"]).after(self._now(connection))
            run(connection, "resume_recurring", self._schema, name=name, next_at=next_at)
            return True

    def _changed(self, statement: str, name: str) -> bool:
        check_name(name)
        with session(self._conninfo, doing=_DOING) as connection:
            return run(connection, statement, self._schema, name=name).fetchone() is not None

    def _now(self, connection: Connection[Row]) -> datetime:
        row = run(connection, "server_clock", self._schema).fetchone()
        assert row is not None
        return moment(row["now_us"])

    def __repr__(self) -> str:
        return f"Schedules(schema={self._schema!r})"


def moment(us: int) -> datetime:
    """An instant from microseconds since 1970."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)
