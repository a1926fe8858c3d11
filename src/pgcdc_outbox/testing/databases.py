"""Databases made for one use, and taken down with all that holds on to them."""

import time
from collections.abc import Callable
from typing import Final

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

_PATIENCE_SECONDS: Final = 60.0
"""How long others may take to let go of a database."""

# Since version 14 the function can wait for the process to be gone.
END_WALSENDERS = """
select pg_terminate_backend(active_pid, 5000)
from pg_replication_slots
where database = %(name)s and active
"""

DROP_SLOTS = """
select pg_drop_replication_slot(slot_name)
from pg_replication_slots
where database = %(name)s and not active
"""


def create_database(dsn: str, name: str, template: str | None = None) -> str:
    """Create a database, empty or the copy of another, and return the DSN that leads to it.

    Nobody may be connected to the one that is copied; who has only just left is waited for.
    """
    statement = sql.SQL("create database {}").format(sql.Identifier(name))
    if template is not None:
        statement += sql.SQL(" template {}").format(sql.Identifier(template))

    with psycopg.connect(dsn, autocommit=True) as connection:
        # The server itself waits five seconds. On a busy machine a process that was told to
        # end, of autovacuum for instance, may take longer.
        _once_free(lambda: connection.execute(statement), _PATIENCE_SECONDS)

    return make_conninfo(dsn, dbname=name)


def drop_database(dsn: str, name: str, *, timeout: float = _PATIENCE_SECONDS) -> None:
    """Drop a database, its replication slots first, and end whoever uses them."""
    statement = sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name))

    with psycopg.connect(dsn, autocommit=True) as connection:

        def drop() -> None:
            connection.execute(END_WALSENDERS, {"name": name})
            connection.execute(DROP_SLOTS, {"name": name})
            connection.execute(statement)

        # A consumer that reconnects by itself can be back before the drop.
        _once_free(drop, timeout)


def _once_free(step: Callable[[], object], timeout: float) -> None:
    """Take a step that needs a database to itself, as soon as others let go of it."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            step()
        except psycopg.errors.ObjectInUse:
            if time.monotonic() > deadline:
                raise

            time.sleep(0.05)
        else:
            return
