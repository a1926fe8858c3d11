"""What a schema really consists of, in the words of the server's catalog."""

import msgspec
from psycopg import Connection

from pgcdc_outbox.postgres.connection import Row, run
from pgcdc_outbox.postgres.doctor.expected import Column, Definition


def columns(connection: Connection[Row], schema: str) -> tuple[Column, ...]:
    """The columns of every table that is no partition, in their order.

    Nothing but ``pg_catalog`` may be in the session's path: see `qualify`.
    """
    rows = run(connection, "doctor_columns", schema, schema=schema).fetchall()
    return msgspec.convert(rows, tuple[Column, ...])


def definitions(connection: Connection[Row], schema: str) -> tuple[Definition, ...]:
    """Everything else, under the same condition."""
    rows = run(connection, "doctor_definitions", schema, schema=schema).fetchall()
    return msgspec.convert(rows, tuple[Definition, ...])


def qualify(connection: Connection[Row]) -> None:
    """Have the server write the schema before every name of ours, from here on."""
    connection.execute(b"set search_path to pg_catalog")
