"""The outbox itself: is it there, is it the one that this version knows, was it altered."""

from collections.abc import Iterator

from pgcdc_outbox.errors import MigrationChanged, SchemaAhead, SchemaBehind
from pgcdc_outbox.postgres import migrate
from pgcdc_outbox.postgres.doctor.columns import columns, create_table
from pgcdc_outbox.postgres.doctor.definitions import (
    constraints,
    functions,
    indexes,
    sequences,
    triggers,
    views,
)
from pgcdc_outbox.postgres.doctor.finding import Finding, ok, problem, warning
from pgcdc_outbox.postgres.doctor.look import Look


def outbox(look: Look) -> Iterator[Finding]:
    """There is an outbox in the schema."""
    if look.has_outbox:
        yield ok(f"there is an outbox in schema {look.schema}")
        return

    if not look.expected.tables & {column.table for column in look.columns}:
        yield problem(
            f"there is no outbox in schema {look.schema}",
            "pgcdc-outbox migrate",
            detail=f"Looked for in database {look.server.database}.",
        )
        return

    yield problem(
        f"there are tables of an outbox in schema {look.schema}, but table migration is missing",
        create_table(look, "migration"),
        *(_recorded(look, step) for step in migrate.known()),
        detail="Nobody knows what was applied. If it was all of it, this records it.",
    )


def migrations(look: Look) -> Iterator[Finding]:
    """What was applied is what this version would apply."""
    if not look.has_outbox:
        return

    try:
        done = migrate.applied(look.connection, look.schema)
        migrate.require_current(done, look.schema)
    except SchemaBehind as error:
        yield problem(str(error), "pgcdc-outbox migrate")
    except (SchemaAhead, MigrationChanged) as error:
        yield problem(str(error), detail=error.hint)
    else:
        yield ok(f"every migration was applied, up to {done[-1].number}")


def tables(look: Look) -> Iterator[Finding]:
    """Every table is there, and its rows reach the log and those who ask for them."""
    there = {column.table for column in look.columns}
    missing = sorted(look.expected.tables - there)
    for table in missing:
        yield problem(
            f"table {table} is missing",
            create_table(look, table),
            detail="Without its constraints and indexes, which are named once it is there.",
        )

    stored = look.rows("doctor_storage", schema=look.schema, tables=sorted(look.expected.tables))
    for row in stored:
        name = look.spelled(row["name"])
        if row["unlogged"]:
            yield problem(
                f"table {row['name']} is unlogged",
                f"alter table {name} set logged;",
                detail="Its rows do not reach the log, so no consumer gets them.",
            )

        if row["guarded"]:
            yield warning(
                f"table {row['name']} has row-level security",
                f"alter table {name} disable row level security;",
                detail="Jobs that a policy hides are not re-read when a slot is lost.",
            )

    if not (missing or stored):
        yield ok(f"all {len(look.expected.tables)} tables are there")


def _recorded(look: Look, step: migrate.Migration) -> str:
    values = f"{step.number}, '{step.name}', '{step.checksum}'"
    return f"insert into {look.spelled('migration')} (number, name, checksum) values ({values});"


PRESENCE = (outbox, migrations)
DRIFT = (sequences, tables, columns, constraints, indexes, functions, views, triggers)
