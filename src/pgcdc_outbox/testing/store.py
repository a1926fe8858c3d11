"""The outbox of a test, as its own connection sees it; and the passing of time in it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import msgspec

from pgcdc_outbox.postgres.connection import connect, run
from pgcdc_outbox.testing import cleaning
from pgcdc_outbox.testing.enqueued import EnqueuedJob, committed_jobs
from pgcdc_outbox.testing.report import FailedJob


class Store:
    """One outbox, through a connection that is opened with it."""

    def __init__(self, dsn: str, schema: str) -> None:
        self.dsn = dsn
        self.schema = schema
        self.travelled = timedelta(0)
        """How much time has passed by `travel`."""
        self._connection = connect(dsn, application_name="pgcdc-outbox testing")
        self._began = self._now()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def clean(self) -> None:
        """Empty the outbox. Raises `NotClean`."""
        cleaning.clean(self._connection, self.schema)
        self.travelled = timedelta(0)
        self._began = self._now()

    def jobs(self) -> list[EnqueuedJob]:
        """Every job that was committed, as it was enqueued."""
        return committed_jobs(self._connection, self.schema, self.travelled)

    def failed(self, consumer: str) -> Sequence[FailedJob]:
        """The jobs that a consumer is to try again, and its dead letters."""
        rows = self._rows("testing_failed", consumer=consumer)
        for row in rows:
            row["due_at"] = row["due_at"] and row["due_at"] + self.travelled

        return msgspec.convert(rows, tuple[FailedJob, ...])

    def pending(self, consumer: str) -> int:
        """How many jobs a consumer has to run now."""
        return int(self._rows("testing_pending", consumer=consumer)[0]["jobs"])

    def next_due(self, consumer: str) -> timedelta | None:
        """How much time is to be travelled until something is due; None if nothing will be."""
        wait: timedelta | None = self._rows("testing_next_due", consumer=consumer)[0]["wait"]
        return wait

    def now(self) -> datetime:
        """When the outbox was cleaned, by the server's clock, and what was travelled since."""
        return self._began + self.travelled

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """See to it that a consumer that starts in it runs nothing because real time passed."""
        self._rows("testing_hold_still")
        try:
            yield
        finally:
            self._rows("testing_let_go")

    def travel(self, by: timedelta) -> None:
        """Let time pass for everything that waits for it."""
        if by < timedelta(0):
            raise ValueError(f"time cannot go back, by {by}")

        if by:
            self._rows("testing_travel", by=by)
            self.travelled += by

    def _now(self) -> datetime:
        now: datetime = self._rows("testing_now")[0]["now"]
        return now

    def _rows(self, name: str, **parameters: Any) -> list[dict[str, Any]]:
        cursor = run(self._connection, name, self.schema, **parameters)
        return cursor.fetchall() if cursor.description is not None else []
