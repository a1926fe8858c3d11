"""Slots: of our consumers, copied, and for readers that are not ours."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import anyio
import psycopg

from pgcdc_outbox import Consumer, Job
from pgcdc_outbox.postgres.names import slot_name


def read_all(dsn: str, **settings: Any) -> None:
    """Let a consumer make its slot, and the partitions, and read all that there is."""

    async def nothing(jobs: Sequence[Job]) -> None:
        return None

    async def run() -> None:
        await Consumer(dsn, nothing, observers=(), **settings).run(once=True)

    anyio.run(run)


def slot_of(connection: psycopg.Connection, name: str = "default") -> str:
    """The slot of a consumer of the outbox in this database."""
    (oid,) = connection.execute(
        "select oid::bigint from pg_database where datname = current_database()"
    ).fetchone() or (0,)
    return slot_name("outbox", name, oid)


def copy_slot(connection: psycopg.Connection, source: str, target: str) -> None:
    """Copy a slot, position and all."""
    connection.execute("select pg_copy_logical_replication_slot(%s, %s)", (source, target))


def drop_slot(connection: psycopg.Connection, name: str) -> None:
    """Drop a slot, if there is one that nobody reads."""
    connection.execute(
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots "
        "where slot_name = %s and not active",
        (name,),
    )


@contextmanager
def bare_slot(dsn: str) -> Iterator[str]:
    """A slot that begins now and belongs to nobody, until the end of the block."""
    name = f"bare_{secrets.token_hex(4)}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [name])

    try:
        yield name
    finally:
        with psycopg.connect(dsn, autocommit=True) as connection:
            drop_slot(connection, name)
