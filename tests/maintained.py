"""An outbox whose partitions a test prepares, looks at and lets be maintained."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import psycopg

from pgcdc_outbox.postgres.migrate import migrate
from pgcdc_outbox.postgres.partition import maker, retention, view
from pgcdc_outbox.postgres.partition.maintenance import Maintenance, Report

WEEK_OLD = "clock_timestamp() - interval '9 days'"

# As long as a busy machine may take for what is done under a lock that nobody else has: where
# the time is up, a partition waits for the next run.
PATIENT = timedelta(seconds=30)


class Outbox:
    """An outbox and a connection to prepare it with."""

    def __init__(self, dsn: str, connection: psycopg.Connection[Any], schema: str = "outbox"):
        self.dsn = dsn
        self.connection = connection
        self.schema = schema

    def maintain(self, **settings: Any) -> Report:
        return Maintenance(
            self.dsn, schema=self.schema, **{"lock_timeout": PATIENT} | settings
        ).once()

    def put(
        self,
        count: int = 1,
        *,
        created_at: str = "clock_timestamp()",
        consumer: str | None = None,
    ) -> None:
        """Commit rows; ``created_at`` is SQL, in which ``i`` counts from 1."""
        self.connection.execute(
            "insert into outbox.immediate (payload, created_at, consumer) "
            f"select '1', {created_at}, %s from generate_series(1, %s) as i",
            (consumer, count),
        )

    def old_partition(self, rows: int = 3) -> str:
        """A partition older than the retention, with rows; its name."""
        self.put(rows, created_at=WEEK_OLD)
        report = self.maintain(retention=timedelta(days=365))
        return report.created[0]

    def register(
        self, name: str = "default", *, settled: bool = True, system_id: str | None = None
    ) -> None:
        self.connection.execute("insert into outbox.consumer (name) values (%s)", (name,))
        if settled:
            self.settle(name, system_id=system_id)

    def settle(self, name: str = "default", *, system_id: str | None = None) -> None:
        """Save a checkpoint that has seen everything committed so far."""
        self.connection.execute(
            "insert into outbox.checkpoint (consumer, system_id, timeline, snapshot, lsn, flushed)"
            " select %s, coalesce(%s, system_identifier::text), 1, pg_current_snapshot(),"
            " pg_current_wal_insert_lsn(), pg_current_wal_insert_lsn() from pg_control_system()"
            " on conflict (consumer) do update set snapshot = excluded.snapshot",
            (name, system_id),
        )

    def column(self, query: str) -> list[Any]:
        return [row[0] for row in self.connection.execute(query.encode()).fetchall()]

    @property
    def partitions(self) -> list[str]:
        return self.column(
            "select inhrelid::regclass::text from pg_inherits"
            " where inhparent = 'outbox.immediate'::regclass order by 1"
        )

    @property
    def bounds(self) -> list[tuple[datetime, datetime]]:
        """From when to when, of every partition but DEFAULT, in order."""
        texts = self.column(
            "select pg_get_expr(relpartbound, oid) from pg_class"
            " where relispartition and relkind = 'r' and relname ~ '^immediate_[0-9]'"
        )
        pairs = [text.split("'")[1::2] for text in texts]
        return sorted((datetime.fromisoformat(a), datetime.fromisoformat(b)) for a, b in pairs)

    def count(self, table: str = "outbox.immediate") -> int:
        return int(self.column(f"select count(*) from {table}")[0])


@contextmanager
def maintained(database: str) -> Iterator[Outbox]:
    migrate(database)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("set timezone = 'UTC'")
        yield Outbox(database, connection)


def reasons(report: Report) -> dict[str, str]:
    return {kept.name: kept.reason for kept in report.kept}


def set_clock(monkeypatch: Any, moment: datetime) -> None:
    """Let maintenance take that for the server's clock. (Rows have the real one.)"""
    for module in (view, retention):
        monkeypatch.setattr(module, "server_now", lambda connection: moment)


def be_patient_beside_autovacuum(monkeypatch: Any) -> None:
    """Let what no producer needs be waited for as long as a busy machine may take."""
    for module in (maker, retention):
        monkeypatch.setattr(module, "BESIDE_AUTOVACUUM", timedelta(minutes=2))


def needs(report: Report) -> dict[str, list[tuple[str, str, int]]]:
    """For each partition that was kept: which consumers need it, why, and how many rows."""
    return {
        kept.name: [(each.consumer, each.why, each.rows) for each in kept.needed]
        for kept in report.kept
    }
