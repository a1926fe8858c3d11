"""From when on the table still has every job."""

from datetime import datetime

from psycopg import Connection

from pgcdc_outbox.postgres.connection import Row, run
from pgcdc_outbox.postgres.partition.partitions import root


def horizon(connection: Connection[Row], schema: str) -> datetime | None:
    """From when on nothing was dropped; None if nothing ever was.

    It is where the partitions that go back from now without a gap begin. There may
    be gaps because nothing was enqueued then, but nobody can tell these from others.
    """
    rows = run(connection, "horizon", schema, root=root(schema)).fetchall()
    made_at: datetime = rows[0]["made_at"]
    now: datetime = rows[0]["now"]
    begin: datetime | None = None
    for row in rows:
        lower, upper = row["lower"], row["upper"]
        if row["emptied"] or (lower is None and upper is None):
            continue

        if upper is not None and begin is None and upper <= now:
            break

        if begin is not None and upper != begin:
            break

        if lower is None:
            return None

        begin = lower

    if begin is None:
        # Without partitions everything is in DEFAULT, of which nothing is ever dropped;
        # with old ones alone nobody knows.
        return None if all(row["lower"] is None for row in rows) else now

    return None if begin <= made_at else begin
