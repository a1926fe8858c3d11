"""Everything about one job, in one value."""

from datetime import datetime, timedelta
from typing import Any

from msgspec import Struct
from psycopg import Connection

from pgcdc_outbox.postgres.connection import Row
from pgcdc_outbox.postgres.jobs.consumers import readers
from pgcdc_outbox.postgres.jobs.found import Found, Line, Waiting, find
from pgcdc_outbox.postgres.jobs.standing import Standing, standing


class Shown(Struct, frozen=True, kw_only=True):
    """One job: what it is, and where it is for each consumer."""

    id: int
    known: bool
    """Whether any table has something about it."""
    about: str
    """What can be said if it is not known, or was not looked for everywhere."""
    topic: str | None = None
    key: str | None = None
    headers: dict[str, Any] | None = None
    content_type: str | None = None
    payload_bytes: int | None = None
    body: str | None = None
    """The payload as text: JSON as it is, anything else in hex."""
    created_at: datetime | None = None
    expires_at: datetime | None = None
    rows: tuple["Place", ...] = ()
    """Its rows in ``immediate``, the first one first."""
    looked_back_to: datetime | None = None
    """Before it partitions were not looked through, for lack of time; None if all were."""
    consumers: tuple[Standing, ...] = ()


class Place(Struct, frozen=True, kw_only=True):
    """A row in ``immediate``: a job in line, or one that was."""

    partition: str
    attempt: int
    consumer: str | None
    created_at: datetime


def show(
    connection: Connection[Row],
    schema: str,
    id: int,
    *,
    consumer: str | None,
    within: timedelta,
) -> Shown:
    """Look a job up, and make sense of what there is."""
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read, read only")
        named = readers(connection, schema, consumer=consumer)
        found = find(connection, schema, id, consumers=[each.name for each in named], within=within)

    rows: list[Waiting | Line] = [*found.waiting, *found.lines]
    row = rows[0] if rows else None
    seen = next(iter(found.attempts), None)
    return Shown(
        id=id,
        known=bool(row or found.attempts or found.running or found.traces),
        about=_about(id, found),
        topic=row.topic if row else seen.topic if seen else None,
        key=row.key if row else seen.key if seen else None,
        headers=row.headers if row else None,
        content_type=(row.content_type or "application/json") if row else None,
        payload_bytes=row.payload_bytes if row else None,
        body=row.body if row else None,
        created_at=_created_at(row),
        expires_at=row.expires_at if row else None,
        rows=tuple(
            Place(
                partition=line.partition,
                attempt=line.attempt,
                consumer=line.consumer,
                created_at=line.created_at,
            )
            for line in found.lines
        ),
        looked_back_to=found.looked_back_to,
        consumers=tuple(standing(each, found) for each in named),
    )


def _created_at(row: Waiting | Line | None) -> datetime | None:
    if isinstance(row, Line):
        return row.first_created_at or row.created_at

    return None if row is None else row.created_at


def _about(id: int, found: Found) -> str:
    if id > found.highest_id:
        return f"there is no such job: the highest id given out is {found.highest_id}"

    if found.looked_back_to is not None:
        return (
            f"rows before {found.looked_back_to:%Y-%m-%d %H:%M:%S%z} were not looked at, "
            "for lack of time"
        )

    return ""
