"""Jobs that were enqueued, as a test looks at them: also in a transaction that is still open."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from msgspec import Struct
from psycopg import AsyncConnection, AsyncCursor, AsyncTransaction, Connection, Cursor, Transaction
from psycopg.rows import tuple_row

from pgcdc_outbox.job import JSON_TYPE, Job
from pgcdc_outbox.postgres.connection import quoted
from pgcdc_outbox.postgres.producer.handles.joining import join, join_async
from pgcdc_outbox.postgres.queries import query

# Stands in for the schema, which each driver wants escaped in its own way.
_MARK: Final = "\x01"


class EnqueuedJob(Job, frozen=True):
    """A job as it was enqueued. A handler may be called with it."""

    run_at: datetime | None = None
    """When it falls due, if it is for later: as the test's clock goes, with `Outbox.travel`."""

    def __repr__(self) -> str:
        later = "" if self.run_at is None else f", run_at={self.run_at.isoformat()}"
        return (
            f"EnqueuedJob(id={self.id}, topic={self.topic!r}, key={self.key!r}, "
            f"headers={dict(self.headers)!r}, payload={self.payload!r:.500}{later})"
        )


class _Row(Struct, frozen=True):
    id: int
    topic: str
    payload: str
    key: str | None
    headers: dict[str, Any] | None
    content_type: str | None
    created_us: int
    due_at: datetime | None

    def job(self, travelled: timedelta) -> EnqueuedJob:
        return EnqueuedJob(
            id=self.id,
            topic=self.topic,
            payload=bytes.fromhex(self.payload),
            key=self.key,
            headers=self.headers or {},
            content_type=self.content_type or JSON_TYPE,
            created_us=self.created_us,
            run_at=None if self.due_at is None else self.due_at + travelled,
        )


def jobs_in(tx: Any, schema: str, travelled: timedelta) -> list[EnqueuedJob]:
    """The jobs that the transaction of ``tx`` sees, by id. Takes what `Client.enqueue` takes.

    Raises as `Client.enqueue` does for a ``tx`` that it would not take.
    """
    join(tx, schema)
    return _jobs(_look(_connection_of(tx), schema), travelled)


async def jobs_in_async(tx: Any, schema: str, travelled: timedelta) -> list[EnqueuedJob]:
    """The same with what `AsyncClient.enqueue` takes."""
    join_async(tx, schema)
    return _jobs(await _look_async(_connection_of(tx), schema), travelled)


def committed_jobs(
    connection: Connection[Any], schema: str, travelled: timedelta
) -> list[EnqueuedJob]:
    """The jobs that were committed, by id."""
    return _jobs(_look(connection, schema), travelled)


def _connection_of(tx: Any) -> Any:
    lent = (Cursor, Transaction, AsyncCursor, AsyncTransaction)
    return tx.connection if isinstance(tx, lent) else tx


def _look(place: Any, schema: str) -> str:
    if isinstance(place, Connection):
        cursor = Cursor(place, row_factory=tuple_row)
        found = cursor.execute(_formatted(schema), {}).fetchall()[0][0]
    else:
        found = place.execute(_clause(schema)).scalar_one()

    return str(found)


async def _look_async(place: Any, schema: str) -> str:
    if isinstance(place, AsyncConnection):
        cursor = AsyncCursor(place, row_factory=tuple_row)
        await cursor.execute(_formatted(schema), {})
        found = (await cursor.fetchall())[0][0]
    elif hasattr(place, "fetchval"):
        found = await place.fetchval(_written(quoted(schema)))
    else:
        from pgcdc_outbox.postgres.producer.handles.with_sqlalchemy import unscoped

        def look(inner: Any) -> str:
            join(inner, schema)  # only here it is known whether it has a transaction
            return _look(inner, schema)

        found = await unscoped(place).run_sync(look)

    return str(found)


def _formatted(schema: str) -> bytes:
    return _written(quoted(schema).replace("%", "%%")).encode()


def _clause(schema: str) -> Any:
    from sqlalchemy import text

    return text(_written(quoted(schema).replace(":", "\\:")))


def _written(schema: str) -> str:
    return query("testing_jobs", _MARK).replace(f'"{_MARK}"', schema)


def _jobs(found: str, travelled: timedelta) -> list[EnqueuedJob]:
    rows: Sequence[_Row] = msgspec.json.decode(found, type=list[_Row])
    return [row.job(travelled) for row in rows]
