"""Jobs that fit some filters, the newest first, at a cost that does not grow with the tables."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from msgspec import Struct
from psycopg import Connection

from pgcdc_outbox.errors import SettingsError
from pgcdc_outbox.postgres.connection import Row, run
from pgcdc_outbox.postgres.jobs.consumers import readers

LOOKS: Final = 10_000
"""Rows of one table that are looked at."""

STATES: Final = ("scheduled", "in_line", "settled", "failed", "parked", "dead")

_EARLIEST: Final = datetime(1, 1, 2, tzinfo=UTC)

# Tables whose index begins with the consumer: the newest are found for one at a time.
_BY_CONSUMER: Final = {"failed": "list_failed", "parked": "list_parked", "dead": "list_dead_jobs"}


class Listed(Struct, frozen=True, kw_only=True):
    """A row of one job; a job has one for each consumer that it failed for."""

    id: int
    state: str
    """``in_line`` until every consumer that it is for has passed it, then ``settled``."""
    consumer: str | None
    """The one it is for; None for every consumer."""
    topic: str
    key: str | None
    attempt: int
    created_at: datetime
    due_at: datetime | None
    reason: str | None
    last_error: str | None


class Stopped(Struct, frozen=True, kw_only=True):
    """A table of which only the newest rows were looked at."""

    table: str
    consumer: str | None
    rows: int
    back_to: datetime


class Listing(Struct, frozen=True, kw_only=True):
    """What was found, and where looking ended before the table did."""

    jobs: tuple[Listed, ...]
    more: bool
    """Whether some that fit were left out, because of the limit."""
    stopped: tuple[Stopped, ...]


def list_jobs(
    connection: Connection[Row],
    schema: str,
    *,
    topic: str | None,
    key: str | None,
    state: str | None,
    consumer: str | None,
    since: datetime | None,
    limit: int,
    looks: int,
) -> Listing:
    """Jobs that fit, the newest first, and where looking stopped."""
    _check(state, since, limit, looks)
    filters: dict[str, Any] = {"topic": topic, "key": key, "since": since or _EARLIEST}
    # One more than is asked for tells whether there are more.
    bounds: dict[str, Any] = {"limit": limit + 1, "looks": looks}

    def ask(name: str, **more: Any) -> Sequence[Row]:
        return run(connection, name, schema, **filters, **bounds, **more).fetchall()

    listed: list[Listed] = []
    stopped: list[Stopped] = []

    def take(table: str, whose: str | None, rows: Sequence[Row]) -> None:
        looked, back_to = rows[0]["looked"], rows[0]["back_to"]
        if looked >= looks:
            stopped.append(Stopped(table=table, consumer=whose, rows=looked, back_to=back_to))

        listed.extend(msgspec.convert(row, Listed) for row in rows if row["id"] is not None)

    with connection.transaction():
        # One snapshot, so that no job is missed or seen twice on its way.
        connection.execute("set transaction isolation level repeatable read, read only")
        if state in (None, "in_line", "settled"):
            take("immediate", None, ask("list_immediate", consumer=consumer, state=state))

        if state in (None, "scheduled") and consumer is None:
            take("scheduled", None, ask("list_scheduled"))

        for name in [each.name for each in readers(connection, schema, consumer=consumer)]:
            for place, statement in _BY_CONSUMER.items():
                if state in (None, place):
                    take(place, name, ask(statement, consumer=name))

    listed.sort(key=lambda each: (-each.id, -each.attempt, each.state))
    return Listing(jobs=tuple(listed[:limit]), more=len(listed) > limit, stopped=tuple(stopped))


def _check(state: str | None, since: datetime | None, limit: int, looks: int) -> None:
    if state is not None and state not in STATES:
        raise SettingsError(
            f"state: {state!r} is not known", hint=f"Use one of {', '.join(STATES)}."
        )

    if since is not None and since.tzinfo is None:
        raise SettingsError(
            "since: it has no time zone", hint="Give an aware datetime, such as datetime.now(UTC)."
        )

    for name, value in (("limit", limit), ("looks", looks)):
        if value < 1:
            raise SettingsError(f"{name}: {value} is not a number from 1")
