"""Who has to do with jobs, and how far each of them is."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from msgspec import Struct
from psycopg import Connection

from pgcdc_outbox.postgres.connection import Row, run


class Reader(Struct, frozen=True, kw_only=True):
    """A consumer, registered or known by rows that it left."""

    name: str
    registered: bool
    instance: str | None
    """The process that holds it, or held it last."""
    released_at: datetime | None
    """When that let go of it in good order; None while it is held, or after a crash."""
    checkpoint_at: datetime | None
    confirmed: str | None
    """How far the slot is confirmed; None without a slot."""
    at_the_end: bool
    """Whether that is the end of the log, so that nothing committed is left."""


def readers(connection: Connection[Row], schema: str, *, consumer: str | None) -> Sequence[Reader]:
    """One of them, or all."""
    rows = run(connection, "job_consumers", schema, consumer=consumer).fetchall()
    return msgspec.convert(rows, tuple[Reader, ...])
