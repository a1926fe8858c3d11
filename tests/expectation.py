"""Writes down what the migrations make, by running them on every supported PostgreSQL.

    python -m tests.expectation

The doctor compares an outbox with that file. It has to be written again with every
migration and whenever sql/roles.sql changes; tests/integration/doctor/test_schema.py fails
until it is.
"""

import sys
from typing import NamedTuple

import msgspec

from pgcdc_outbox.postgres.connection import connect, run
from pgcdc_outbox.postgres.doctor import catalog
from pgcdc_outbox.postgres.doctor.expected import (
    MARKER,
    Column,
    Definition,
    Expected,
)
from pgcdc_outbox.postgres.migrate import known, migrate
from pgcdc_outbox.postgres.names import publication_name
from pgcdc_outbox.postgres.queries import for_schema
from pgcdc_outbox.testing import PostgresServer
from tests.matrix import ROOT, SUPPORTED, obtain

FILE = ROOT / "src" / "pgcdc_outbox" / "sql" / "expected.json"
ROLES = ROOT / "sql" / "roles.sql"

# Nothing else is called so, and so it can be replaced.
SCHEMA = "the_schema_of_the_outbox"


class Seen(NamedTuple):
    """One version's catalog, with the marker in place of the schema."""

    columns: tuple[Column, ...]
    definitions: tuple[Definition, ...]
    published: tuple[str, ...]
    grants: dict[str, tuple[str, ...]]


def look(dsn: str) -> Seen:
    """Migrate an empty database, run sql/roles.sql, and write down what there is."""
    migrate(dsn, schema=SCHEMA)
    with connect(dsn) as connection:
        connection.execute(for_schema(ROLES.read_text("utf-8"), SCHEMA).encode())
        catalog.qualify(connection)
        columns = catalog.columns(connection, SCHEMA)
        definitions = catalog.definitions(connection, SCHEMA)
        (published,) = run(
            connection, "doctor_published", SCHEMA, publication=publication_name(SCHEMA)
        ).fetchall()
        grants = run(connection, "doctor_consumer_grants", SCHEMA, schema=SCHEMA).fetchall()

    return Seen(
        columns=tuple(
            msgspec.structs.replace(each, default=each.default and _marked(each.default))
            for each in columns
        ),
        definitions=tuple(
            msgspec.structs.replace(each, text=_marked(each.text)) for each in definitions
        ),
        published=tuple(published["columns"] or ()),
        grants={row["name"]: tuple(row["privileges"]) for row in grants},
    )


def merge(seen: dict[int, Seen]) -> Expected:
    """One file for all versions: so far they all write down the same."""
    (newest, *others) = (seen[major] for major in sorted(seen, reverse=True))
    for other in others:
        assert other.columns == newest.columns
        assert other.definitions == newest.definitions
        assert other.grants == newest.grants

    return Expected(
        migrations=checksums(),
        columns=newest.columns,
        definitions=newest.definitions,
        published=newest.published,
        grants=newest.grants,
    )


def checksums() -> dict[str, str]:
    """The migrations that there are."""
    return {str(each.number): each.checksum for each in known()}


def write(expected: Expected) -> str:
    """JSON, a line for each thing, so that a change shows as a line."""
    lines = []
    for field, value in msgspec.to_builtins(expected).items():
        entries = (
            [f"  {_json(each)}" for each in value]
            if isinstance(value, (list, tuple))
            else [f"  {_json(key)}: {_json(each)}" for key, each in value.items()]
        )
        opening, closing = "[]" if isinstance(value, (list, tuple)) else "{}"
        body = ",\n".join(entries)
        lines.append(f" {_json(field)}: {opening}\n{body}\n {closing}")

    return "{\n" + ",\n".join(lines) + "\n}\n"


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _marked(text: str) -> str:
    return text.replace(SCHEMA, MARKER)


def main() -> int:
    seen: dict[int, Seen] = {}
    for major in SUPPORTED:
        with PostgresServer.start(binaries=obtain(major)) as server:
            seen[major] = look(server.create_database("expectation"))
            print(f"PostgreSQL {server.version}: {len(seen[major].definitions)} definitions")

    FILE.write_text(write(merge(seen)), "utf-8")
    print(f"wrote {FILE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
