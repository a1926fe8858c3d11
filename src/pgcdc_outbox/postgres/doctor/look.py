"""What checks look with: a connection that cannot write, and facts that many of them ask for."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final

import msgspec
import psycopg
from msgspec import Struct
from psycopg import Connection

from pgcdc_outbox.errors import MigrationChanged, SchemaAhead, SchemaBehind
from pgcdc_outbox.postgres import migrate
from pgcdc_outbox.postgres.connection import Row, quoted, run
from pgcdc_outbox.postgres.doctor import catalog
from pgcdc_outbox.postgres.doctor.expected import Column, Definition, Expected, expected
from pgcdc_outbox.postgres.doctor.setting import Setting
from pgcdc_outbox.postgres.doctor.slot import Slot
from pgcdc_outbox.postgres.names import slot_name

Clock = Callable[[], datetime]

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*", re.ASCII)

# Words of SQL that people use as names all the same.
_WORDS: Final = {"user", "order", "group", "table", "select", "default", "all", "end", "check"}


class Limits(Struct, frozen=True, kw_only=True):
    """From when on something takes too long."""

    writing: timedelta = timedelta(minutes=5)
    """How long a transaction may write before it is said to hold the log."""
    reading: timedelta = timedelta(hours=1)
    """How long a snapshot may be kept before it is said to hold vacuum back."""
    away: timedelta = timedelta(hours=1)
    """How long a consumer may be away before it is taken for dead."""
    skew: timedelta = timedelta(seconds=5)
    """How far the clocks of server and client may be apart."""


class Server(Struct, frozen=True, kw_only=True):
    """Where we are."""

    database: str
    database_oid: int
    role: str
    version: str
    number: int
    """The version as the server counts it, such as 180006."""
    standby: bool
    encoding: str
    schema: str
    """The schema as the server spells it in the definitions that it shows."""

    @property
    def major(self) -> int:
        """14 to 18, and what comes after."""
        return self.number // 10000

    @property
    def minor(self) -> int:
        """The number behind the dot."""
        return self.number % 10000


class Consumer(Struct, frozen=True, kw_only=True):
    """A consumer that is registered, or that somebody asks about."""

    name: str
    slot: str | None
    """The slot that continues its checkpoint."""
    expected_slot: str
    """What its slot is called, whether it has one or not."""
    registered: bool
    polls: bool = False
    """It reads the table and needs no slot."""
    idle_seconds: float = 0.0
    """Since it last saved a checkpoint, or was taken hold of if it never has."""
    checkpoint_system: str | None = None


class Look:
    """One examination of one outbox."""

    def __init__(
        self,
        connection: Connection[Row],
        *,
        conninfo: str,
        schema: str,
        name: str | None,
        limits: Limits,
        clock: Clock,
    ) -> None:
        self.connection = connection
        self.conninfo = conninfo
        self.schema = schema
        self.name = name
        self.limits = limits
        self.clock = clock
        self._no_consumers: psycopg.Error | None = None

    def rows(self, query: str, **parameters: Any) -> list[Row]:
        """Run a query."""
        return run(self.connection, query, self.schema, **parameters).fetchall()

    def row(self, query: str, **parameters: Any) -> Row:
        """Run a query that gives exactly one row."""
        (row,) = self.rows(query, **parameters)
        return row

    def spelled(self, name: str) -> str:
        """Something of the outbox, as SQL spells it."""
        return f"{self.server.schema}.{spelled(name)}"

    @cached_property
    def server(self) -> Server:
        """Where we are."""
        return msgspec.convert(self.row("doctor_server", schema=self.schema), Server)

    @cached_property
    def settings(self) -> dict[str, Setting]:
        """The settings that checks ask for; those that this server has."""
        rows = self.rows("doctor_settings")
        return {row["name"]: msgspec.convert(row, Setting) for row in rows}

    @cached_property
    def expected(self) -> Expected:
        """What the migrations make in this schema."""
        return expected(self.server.schema)

    @cached_property
    def published(self) -> tuple[str, ...]:
        """The columns that should be published now: not those that a pending migration makes."""
        try:
            migrate.require_current(migrate.applied(self.connection, self.schema), self.schema)
        except SchemaBehind:
            there = {column.name for column in self.columns if column.table == "immediate"}
            return tuple(name for name in self.expected.published if name in there)
        except (SchemaAhead, MigrationChanged):
            pass  # told by the check that asks for it

        return self.expected.published

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """What the tables of the schema really consist of."""
        return catalog.columns(self.connection, self.schema)

    @cached_property
    def definitions(self) -> tuple[Definition, ...]:
        """What else there is in the schema."""
        return catalog.definitions(self.connection, self.schema)

    @cached_property
    def slots(self) -> dict[str, Slot]:
        """Every slot of the cluster."""
        return {row["name"]: Slot.read(row) for row in self.rows("doctor_slots")}

    @cached_property
    def has_outbox(self) -> bool:
        """Whether there is anything in the schema that was migrated."""
        return bool(self.row("migration_table", schema=self.schema)["present"])

    @property
    def consumers(self) -> tuple[Consumer, ...]:
        """Those that are registered, and the one that was asked about."""
        if self._no_consumers is not None:
            raise self._no_consumers  # it may have waited for a lock: once is enough

        try:
            return self._consumers
        except psycopg.Error as error:
            self._no_consumers = error
            raise

    @cached_property
    def _consumers(self) -> tuple[Consumer, ...]:
        found = [
            Consumer(**row, expected_slot=self._slot(row["name"]), registered=True)
            for row in self.rows("doctor_consumers")
        ]
        if self.name is not None:
            found = [each for each in found if each.name == self.name] or [
                Consumer(
                    name=self.name,
                    slot=None,
                    expected_slot=self._slot(self.name),
                    registered=False,
                )
            ]

        return tuple(found)

    def _slot(self, consumer: str) -> str:
        return slot_name(self.schema, consumer, self.server.database_oid)


def spelled(name: str) -> str:
    """An identifier as SQL spells it, in quotes only if it may need them."""
    return name if _PLAIN.fullmatch(name) and name not in _WORDS else quoted(name)


def utc_now() -> datetime:
    """What time it is for us."""
    return datetime.now(UTC)
