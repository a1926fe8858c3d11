"""A server for tests: one of our own, or one that somebody else runs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg
from psycopg.conninfo import make_conninfo

from pgcdc_outbox.postgres.connection import redact
from pgcdc_outbox.postgres.conninfo import parse
from pgcdc_outbox.testing import databases
from pgcdc_outbox.testing.errors import ServerUnavailable
from pgcdc_outbox.testing.server import PostgresServer

VARIABLE: Final = "PGCDC_OUTBOX_TEST_DSN"


class OutsideServer:
    """A server that somebody else runs: databases are created and dropped in it, no more."""

    def __init__(self, dsn: str) -> None:
        """Raises `SettingsError` for a DSN that makes no sense."""
        parse(dsn, field=VARIABLE)
        self._dsn = dsn

    def dsn(self, database: str | None = None, **params: str | int) -> str:
        """Return the DSN of a database; without a name, of the one that tests were given."""
        named = {} if database is None else {"dbname": database}
        return make_conninfo(self._dsn, **(named | params))

    def create_database(self, name: str, *, template: str | None = None) -> str:
        """Create a database, empty or the copy of another, and return its DSN."""
        return databases.create_database(self.dsn(), name, template)

    def drop_database(self, name: str) -> None:
        """Drop a database with its replication slots, whoever is using them."""
        databases.drop_database(self.dsn(), name)

    def check(self) -> None:
        """Raise `ServerUnavailable` if it does not let us in."""
        try:
            psycopg.connect(self._dsn, connect_timeout=10).close()
        except psycopg.OperationalError as error:
            # Not chained: what libpq says may quote what it was given.
            text = " ".join(redact(str(error), self._dsn).split())
            raise ServerUnavailable(
                f"the server that {VARIABLE} names cannot be used: {text}",
                hint=f"Correct {VARIABLE}, or unset it to have a server started for the tests.",
            ) from None


@contextmanager
def a_server() -> Iterator[PostgresServer | OutsideServer]:
    """The server that ``PGCDC_OUTBOX_TEST_DSN`` names, else one of our own for a while.

    Raises `ServerUnavailable` if there is neither.
    """
    if outside := os.environ.get(VARIABLE):
        server = OutsideServer(outside)
        server.check()
        yield server
        return

    with PostgresServer.start(in_memory=True) as ours:
        yield ours
