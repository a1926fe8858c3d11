"""Maintenance: partitions made ahead of time and dropped when settled, old keys forgotten."""

import logging
import os
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Final

import msgspec
from msgspec import Struct
from psycopg import Connection

from pgcdc_outbox.errors import OutboxError, SettingsError
from pgcdc_outbox.postgres.connection import Row, check_conninfo, session
from pgcdc_outbox.postgres.migrate import check_schema
from pgcdc_outbox.postgres.partition.keys import forget_keys
from pgcdc_outbox.postgres.partition.look_ahead import LookAhead
from pgcdc_outbox.postgres.partition.partitions import check_interval
from pgcdc_outbox.postgres.partition.retention import Kept, Retention
from pgcdc_outbox.postgres.partition.table import ATTEMPTS, JOBS, Table
from pgcdc_outbox.postgres.partition.turn import Turn, turn

logger = logging.getLogger(__name__)

VARIABLE: Final = "PGCDC_OUTBOX_DSN"

_MOST_AHEAD: Final = 1000

# Attempts are many only where each is audited, and nobody waits for a lock on their table.
_AUDIT_INTERVAL: Final = timedelta(days=1)
_AUDIT_AHEAD: Final = 3


class TableReport(Struct, frozen=True, kw_only=True):
    """What one run did to the partitions of one table, and what it could not do."""

    created: tuple[str, ...] = ()
    """Partitions made."""
    moved: int = 0
    """Rows moved to them from DEFAULT."""
    delayed: tuple[str, ...] = ()
    """Why a partition was not made; its rows go to DEFAULT meanwhile."""
    dropped: tuple[str, ...] = ()
    """Partitions dropped."""
    kept: tuple[Kept, ...] = ()
    """Partitions older than the retention that are still there, and why."""


class Report(TableReport, frozen=True, kw_only=True):
    """What one run did to the partitions of the jobs; the rest is in fields of their own."""

    audit: TableReport = TableReport()
    """The same for the table of attempts."""
    keys: int = 0
    """Dedup keys forgotten, whose time was over."""
    busy: bool = False
    """Somebody else was at it, so that nothing was done."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing was delayed or kept."""
        reports = (self, self.audit)
        return not any(report.delayed or report.kept for report in reports)

    @property
    def kept_bytes(self) -> int:
        """What keeping partitions beyond the retention costs."""
        return sum(kept.bytes for kept in (*self.kept, *self.audit.kept))


def _from_environment() -> str:
    conninfo = os.environ.get(VARIABLE, "")
    try:
        check_conninfo(conninfo)
    except SettingsError as error:
        raise SettingsError(f"{VARIABLE}: {error}", hint=error.hint) from None

    return conninfo


def _ignore(report: Report) -> None:
    pass


class Maintenance:
    """Keeps the partitions of one outbox.

    Needs to be the owner of the outbox, or a member of that role. It opens two
    connections for a run; a pooler may share them between transactions. Without
    ``conninfo`` the environment tells at each run: ``PGCDC_OUTBOX_DSN``, else
    libpq's own variables. No producer waits for it longer than ``lock_timeout``.
    ``observe`` is told of every run. ``retention`` is of jobs, and ``audit_retention`` of
    what was written about attempts, in partitions of a day.
    """

    def __init__(
        self,
        conninfo: str | None = None,
        *,
        schema: str = "outbox",
        interval: timedelta = timedelta(days=1),
        ahead: int = 3,
        retention: timedelta = timedelta(days=7),
        audit_retention: timedelta = timedelta(days=30),
        lock_timeout: timedelta = timedelta(seconds=1),
        observe: Callable[[Report], None] = _ignore,
    ) -> None:
        check_schema(schema)
        if not 1 <= ahead <= _MOST_AHEAD:
            raise SettingsError(f"ahead: {ahead} is not a number from 1 to {_MOST_AHEAD}")

        if retention < timedelta(0):
            raise SettingsError("retention: it is negative")

        if audit_retention < timedelta(0):
            raise SettingsError("audit_retention: it is negative")

        if lock_timeout <= timedelta(0):
            raise SettingsError("lock_timeout: it must be more than nothing")

        self._conninfo = conninfo
        self._schema = schema
        self._interval = check_interval(interval)
        self._ahead = ahead
        self._retention = retention
        self._audit_retention = audit_retention
        self._lock_timeout = lock_timeout
        self._observe = observe

    def once(self) -> Report:
        """Do what is due, and say what was done. Raises `OutboxError`."""
        conninfo = self._conninfo if self._conninfo is not None else _from_environment()
        with turn(conninfo, self._schema) as mine:
            report = Report(busy=True) if mine is None else self._do(conninfo, mine)

        self._observe(report)
        return report

    def run(self, *, every: timedelta, stop: threading.Event | None = None) -> None:
        """Do it again and again, until ``stop`` is set. A transient error is logged and passes."""
        stop = threading.Event() if stop is None else stop
        while not stop.is_set():
            try:
                self.once()
            except OutboxError as error:
                if not error.transient:
                    raise

                logger.warning("maintenance failed and will be tried again: %s", error)

            stop.wait(every.total_seconds())

    def _do(self, conninfo: str, turn: Turn) -> Report:
        with session(conninfo, doing="maintain the partitions") as connection:
            jobs = self._keep(connection, turn, JOBS, self._interval, self._ahead, self._retention)
            audit = self._keep(
                connection, turn, ATTEMPTS, _AUDIT_INTERVAL, _AUDIT_AHEAD, self._audit_retention
            )
            keys = forget_keys(connection, self._schema)

        return Report(**msgspec.structs.asdict(jobs), audit=audit, keys=keys)

    def _keep(
        self,
        connection: Connection[Row],
        turn: Turn,
        table: Table,
        interval: timedelta,
        ahead: int,
        retention: timedelta,
    ) -> TableReport:
        making = LookAhead(
            connection,
            self._schema,
            table,
            interval=interval,
            ahead=ahead,
            lock_timeout=self._lock_timeout,
            turn=turn,
        ).make()
        dropping = Retention(
            connection,
            self._schema,
            table,
            retention=retention,
            lock_timeout=self._lock_timeout,
            turn=turn,
        ).apply()
        return TableReport(
            created=making.created,
            moved=making.moved,
            delayed=making.delayed,
            dropped=dropping.dropped,
            kept=dropping.kept,
        )
