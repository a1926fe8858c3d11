"""What the tables say about one job, before anybody makes sense of it."""

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from msgspec import Struct
from psycopg import Connection, errors

from pgcdc_outbox.job import Failing
from pgcdc_outbox.postgres.blocking import milliseconds
from pgcdc_outbox.postgres.connection import Row, run
from pgcdc_outbox.postgres.partition.partitions import Partition, read, server_now


class Waiting(Struct, frozen=True, kw_only=True):
    """A row of a table where jobs are put aside."""

    place: str
    """``scheduled``, ``failed``, ``parked`` or ``dead``."""
    consumer: str | None
    attempt: int | None
    due_at: datetime | None
    since: datetime | None
    reason: str | None
    behind: int | None
    """The job of its key that has to be finished first."""
    errors: tuple[Failing, ...]
    topic: str
    key: str | None
    headers: dict[str, Any] | None
    content_type: str | None
    payload_bytes: int
    body: str
    created_at: datetime
    expires_at: datetime | None


class Line(Struct, frozen=True, kw_only=True):
    """A row of ``immediate``."""

    partition: str
    created_at: datetime
    attempt: int
    consumer: str | None
    """The one it is for; None for every consumer."""
    passed: tuple[str, ...]
    """Consumers whose checkpoint has seen it: for them it is settled."""
    errors: tuple[Failing, ...]
    topic: str
    key: str | None
    headers: dict[str, Any] | None
    content_type: str | None
    payload_bytes: int
    body: str
    first_created_at: datetime | None
    expires_at: datetime | None


class Running(Struct, frozen=True, kw_only=True):
    """An execution that was noted before it began."""

    consumer: str
    attempt: int
    instance: str
    started_at: datetime


class Attempted(Struct, frozen=True, kw_only=True):
    """A row of ``attempt``."""

    consumer: str
    attempt: int
    topic: str
    key: str | None
    outcome: str
    started_at: datetime
    seconds: float
    instance: str
    jobs: int
    error: str | None
    text: str | None


class Found(Struct, frozen=True, kw_only=True):
    """Everything about one job that there is a row of."""

    waiting: tuple[Waiting, ...]
    lines: tuple[Line, ...]
    running: tuple[Running, ...]
    attempts: tuple[Attempted, ...]
    traces: dict[str, int]
    """The last attempt that is settled, by consumer."""
    highest_id: int
    looked_back_to: datetime | None
    """Before it partitions were not looked through, for lack of time; None if all were."""


def find(
    connection: Connection[Row],
    schema: str,
    id: int,
    *,
    consumers: Sequence[str],
    within: timedelta,
) -> Found:
    """Look a job up. In one transaction of one snapshot, or it might move meanwhile."""
    about: dict[str, Any] = {"id": id, "consumers": list(consumers)}
    waiting = _rows(connection, "job_waiting", schema, tuple[Waiting, ...], **about)
    attempts = _rows(connection, "job_attempts", schema, tuple[Attempted, ...], id=id)
    running = _rows(connection, "job_started", schema, tuple[Running, ...], **about)
    traces = run(connection, "job_traces", schema, **about).fetchall()
    highest = run(connection, "highest_id", schema).fetchone()
    assert highest is not None
    # Last, because its limit of time stays until the transaction is over.
    search = _Search(connection, schema, id, within)
    # One that was never given out is nowhere, and one that is scheduled is nowhere else.
    if id <= highest["id"] and not any(each.place == "scheduled" for each in waiting):
        search.run()

    return Found(
        waiting=waiting,
        lines=tuple(sorted(search.lines, key=lambda line: (line.created_at, line.attempt))),
        running=running,
        attempts=attempts,
        traces={row["consumer"]: row["attempt"] for row in traces},
        highest_id=highest["id"],
        looked_back_to=search.looked_back_to,
    )


class _Search:
    """Looks for the rows of a job, a partition at a time, from the newest to its first row."""

    def __init__(
        self, connection: Connection[Row], schema: str, id: int, within: timedelta
    ) -> None:
        self._connection = connection
        self._schema = schema
        self._id = id
        self._ends = time.monotonic() + within.total_seconds()
        self.lines: list[Line] = []
        self.looked_back_to: datetime | None = None

    def run(self) -> None:
        """Look through partitions, until the first row is found or the time is over."""
        upper: datetime | None = None
        for partition in self._partitions():
            first = next((line for line in self.lines if line.consumer is None), None)
            if first is not None and _ends_before(partition, first.created_at):
                return

            if not self._look_through(partition):
                self.looked_back_to = upper or server_now(self._connection)
                return

            upper = partition.lower or upper

    def _partitions(self) -> Iterator[Partition]:
        """DEFAULT first, as a rule it is empty; then the newest first."""
        found = read(self._connection, self._schema)
        now = server_now(self._connection)
        yield from (each for each in found if each.is_default)
        for each in reversed(found):
            if not each.is_default and (each.lower is None or each.lower <= now):
                yield each

    def _look_through(self, partition: Partition) -> bool:
        """Whether the time was enough for it."""
        left = timedelta(seconds=self._ends - time.monotonic())
        if left <= timedelta(0):
            return False

        try:
            with self._connection.transaction():
                limit = f"set local statement_timeout = {milliseconds(left)}"
                self._connection.execute(limit.encode())
                self.lines += _rows(
                    self._connection,
                    "job_rows",
                    self._schema,
                    tuple[Line, ...],
                    id=self._id,
                    parent=partition.name if partition.is_default else "immediate",
                    lower=partition.lower or "-infinity",
                    upper=partition.upper or "infinity",
                )
        except errors.QueryCanceled:
            return False

        return True


def _ends_before(partition: Partition, moment: datetime) -> bool:
    return partition.upper is not None and partition.upper <= moment.astimezone(UTC)


def _rows(connection: Connection[Row], name: str, schema: str, kind: Any, **parameters: Any) -> Any:
    return msgspec.convert(run(connection, name, schema, **parameters).fetchall(), kind)
