"""Migrations: numbered SQL files, each applied once, in its own transaction."""

import hashlib
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from importlib.resources import files
from typing import Final

import msgspec
from msgspec import Struct
from psycopg import Connection, errors, sql

from pgcdc_outbox.errors import (
    MigrationBlocked,
    MigrationChanged,
    SchemaAhead,
    SchemaBehind,
    SettingsError,
)
from pgcdc_outbox.postgres.blocking import limit_waiting, lock_holders, milliseconds
from pgcdc_outbox.postgres.connection import Row, run, session
from pgcdc_outbox.postgres.names import lock_key
from pgcdc_outbox.postgres.queries import for_schema

LOCK_TIMEOUT: Final = timedelta(seconds=2)

# How long to let another migrate finish; nobody else waits for that lock.
_TURN: Final = timedelta(minutes=1)
_FILE = re.compile(r"^(\d{4})_(\w+)\.sql$")


class Migration(Struct, frozen=True):
    """One step of the schema, as a file of this version holds it."""

    number: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, before any name is filled in."""
        return hashlib.sha256(self.text.encode()).hexdigest()


class Applied(Struct, frozen=True):
    """One step of the schema, as the database remembers it."""

    number: int
    name: str
    checksum: str
    applied_at: datetime


class Status(Struct, frozen=True):
    """What was applied to a schema, and what was not."""

    schema: str
    applied: tuple[Applied, ...]
    pending: tuple[Migration, ...]


@lru_cache(maxsize=1)
def known() -> tuple[Migration, ...]:
    """Every migration of this version, in order."""
    folder = files("pgcdc_outbox").joinpath("sql", "migrations")
    found = [
        Migration(int(match[1]), match[2], entry.read_text("utf-8"))
        for entry in folder.iterdir()
        if (match := _FILE.match(entry.name))
    ]
    return tuple(sorted(found, key=lambda migration: migration.number))


def migrate(
    conninfo: str,
    *,
    schema: str = "outbox",
    lock_timeout: timedelta = LOCK_TIMEOUT,
    migrations: Sequence[Migration] | None = None,
) -> list[Migration]:
    """Bring a schema up to date; returns what it applied.

    With nothing to do it takes no lock and needs no more than SELECT. Otherwise
    no producer waits longer than ``lock_timeout``: raises `MigrationBlocked`
    instead, with what was applied before it kept. Raises `MigrationChanged` or
    `SchemaAhead`, before it changes anything, if the schema is not one that
    this version could have made.
    """
    check_schema(schema)
    wanted = known() if migrations is None else migrations
    with session(conninfo, doing="migrate") as connection:
        pending = _pending(applied(connection, schema), wanted, schema)
        return [
            migration
            for migration in pending
            if _apply(connection, migration, schema, lock_timeout, wanted)
        ]


def status(conninfo: str, schema: str = "outbox") -> Status:
    """What was applied to a schema, and what `migrate` would apply."""
    check_schema(schema)
    with session(conninfo, doing="read the migrations") as connection:
        done = applied(connection, schema)

    numbers = {step.number for step in done}
    return Status(schema, done, tuple(step for step in known() if step.number not in numbers))


def plan_text(schema: str = "outbox") -> str:
    """Every migration as SQL that psql, or any other client, runs as it is."""
    check_schema(schema)
    return "\n".join(_script(migration, schema) for migration in known())


def require_current(
    done: Sequence[Applied], schema: str, *, migrations: Sequence[Migration] | None = None
) -> None:
    """Raise `SchemaBehind`, `SchemaAhead` or `MigrationChanged` unless it fits this version."""
    if pending := _pending(done, known() if migrations is None else migrations, schema):
        have = f"is at {done[-1].number}" if done else "does not exist, or is empty"
        raise SchemaBehind(f"schema {schema!r} {have}; this version needs {pending[-1].number}")


def applied(connection: Connection[Row], schema: str) -> tuple[Applied, ...]:
    """What was applied to a schema; nothing if there is no such schema."""
    table = run(connection, "migration_table", schema, schema=schema).fetchone()
    if table is None or not table["present"]:
        return ()

    rows = run(connection, "applied_migrations", schema).fetchall()
    return msgspec.convert(rows, tuple[Applied, ...])


def check_schema(schema: str) -> None:
    """Raise `SettingsError` for a name that no schema of ours can have."""
    if not schema:
        raise SettingsError("schema: the name is empty")

    if "\0" in schema:
        raise SettingsError("schema: the name holds a NUL character")

    if len(schema.encode()) > 63:
        raise SettingsError("schema: the name is longer than 63 bytes")

    if schema.startswith("pg_"):
        raise SettingsError(f"schema {schema!r}: names that begin with pg_ belong to PostgreSQL")


def _pending(
    done: Sequence[Applied], wanted: Sequence[Migration], schema: str
) -> tuple[Migration, ...]:
    ours = {migration.number: migration for migration in wanted}
    for step in done:
        if step.number not in ours:
            raise SchemaAhead(
                f"schema {schema!r} has migration {step.number} ({step.name}), "
                f"which this version does not know"
            )

        if ours[step.number].checksum != step.checksum:
            raise MigrationChanged(
                f"migration {step.number} ({step.name}) of schema {schema!r} was applied "
                f"from another text than the one in this version"
            )

    applied_numbers = {step.number for step in done}
    return tuple(step for step in wanted if step.number not in applied_numbers)


def _apply(
    connection: Connection[Row],
    migration: Migration,
    schema: str,
    lock_timeout: timedelta,
    wanted: Sequence[Migration],
) -> bool:
    """Apply one migration, unless somebody else did in the meantime."""
    try:
        with connection.transaction():
            limit_waiting(connection, _TURN)
            connection.execute(_turn(schema).encode())
            if migration not in _pending(applied(connection, schema), wanted, schema):
                return False

            limit_waiting(connection, lock_timeout)
            # No parameters: the server then takes many statements at once.
            connection.execute(for_schema(migration.text, schema).encode())
            run(
                connection,
                "record_migration",
                schema,
                number=migration.number,
                name=migration.name,
                checksum=migration.checksum,
            )
    except errors.LockNotAvailable as error:
        holders = lock_holders(connection, schema, lock_timeout)
        raise MigrationBlocked(
            f"migration {migration.number} ({migration.name}) of schema {schema!r} "
            f"waited {lock_timeout.total_seconds():g} s for a lock{holders}"
        ) from error

    return True


def _script(migration: Migration, schema: str) -> str:
    values = sql.SQL(", ").join(
        sql.Literal(value) for value in (migration.number, migration.name, migration.checksum)
    )
    return (
        f"-- Migration {migration.number}: {migration.name.replace('_', ' ')}\n"
        "begin;\n"
        f"set local lock_timeout = {milliseconds(LOCK_TIMEOUT)};\n"
        f"{_turn(schema)};\n\n"
        f"{for_schema(migration.text, schema)}\n"
        f"insert into {sql.Identifier(schema).as_string(None)}.migration (number, name, checksum)\n"
        f"values ({values.as_string(None)});\n"
        "commit;\n"
    )


def _turn(schema: str) -> str:
    """One at a time, until the end of the transaction."""
    return f"select pg_advisory_xact_lock({lock_key(schema, 'migrate')})"
