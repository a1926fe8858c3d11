"""Placed jobs: rows that have their ids, and know their table. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from pgcdc_outbox.postgres.producer.enqueue import Row

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Placed(Struct, frozen=True, gc=False):
    """A job as the values of its columns, its id among them."""

    id: int
    topic: str
    payload: bytes
    key: str | None
    headers: str | None
    """A JSON object."""
    content_type: str | None
    due_at: datetime | None
    """In UTC; None runs at once."""
    expires_at: datetime | None = None
    """In UTC; None never expires."""

    @property
    def due_at_text(self) -> str | None:
        """ISO 8601, which the server reads alike whatever its settings are."""
        return None if self.due_at is None else self.due_at.isoformat()

    @property
    def expires_at_text(self) -> str | None:
        """The same for the moment when it expires."""
        return None if self.expires_at is None else self.expires_at.isoformat()


class Placing(Struct, frozen=True):
    """A list of jobs, divided by the table that takes them; each in the order given."""

    ids: list[int]
    clock: datetime
    """The server's, when the ids were taken; in UTC."""
    immediate: list[Placed]
    scheduled: list[Placed]


def place(rows: Sequence[Row], ids: Sequence[int], clock_us: int) -> Placing:
    """Give the rows their ids, and count delays from the clock of the server."""
    clock = _EPOCH + timedelta(microseconds=clock_us)
    immediate: list[Placed] = []
    scheduled: list[Placed] = []
    for number, row in zip(ids, rows, strict=True):
        due_at = row.run_at
        if row.delay is not None:
            due_at = clock + timedelta(seconds=row.delay)

        expires_at = row.expires_at
        if row.time_to_live is not None:
            expires_at = (due_at or clock) + timedelta(seconds=row.time_to_live)

        placed = Placed(
            number,
            row.topic,
            row.payload,
            row.key,
            row.headers,
            row.content_type,
            due_at,
            expires_at,
        )
        (immediate if due_at is None else scheduled).append(placed)

    return Placing(list(ids), clock, immediate, scheduled)
