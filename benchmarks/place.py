"""Where it is measured: a server of our own, or one that a DSN names, and databases on it."""

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import psycopg
from psycopg.conninfo import make_conninfo

from benchmarks.programs import Programs
from pgcdc_outbox.testing import PostgresServer
from pgcdc_outbox.testing.binaries import Binaries
from pgcdc_outbox.testing.databases import create_database, drop_database

VARIABLE: Final = "PGCDC_OUTBOX_BENCH_DSN"

SETTINGS: Final = {
    "shared_buffers": "256MB",
    "max_replication_slots": "50",
    "max_wal_senders": "50",
    "max_connections": "150",
    # No checkpoint of the server's in the middle of a run.
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
}

SOCKET: Final = "Unix socket"
TCP: Final = "TCP"
GIVEN: Final = "as the DSN says"


class Place:
    """A server, and how it is reached."""

    def __init__(self, ways: Mapping[str, str], *, postmaster: int | None) -> None:
        """``ways`` are DSNs by the name of the transport."""
        self._ways = ways
        self.postmaster = postmaster
        """Its process; None if it is not ours, and perhaps on another machine."""
        self.programs = Programs(Binaries.find())

    @property
    def transports(self) -> list[str]:
        """How the server is reached, the usual way first."""
        return list(self._ways)

    @property
    def dsn(self) -> str:
        """The DSN of its first database, the usual way."""
        return self._ways[self.transports[0]]

    def through(self, transport: str, dsn: str) -> str:
        """The DSN of the same database by another way."""
        database = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
        return make_conninfo(self._ways[transport], dbname=str(database))

    @contextmanager
    def database(self) -> Iterator[str]:
        """The DSN of an empty database, which is dropped at the end with its slots."""
        name = f"bench_{secrets.token_hex(4)}"
        try:
            yield create_database(self.dsn, name)
        finally:
            drop_database(self.dsn, name)

    @contextmanager
    def without_disk(self) -> Iterator[str]:
        """No commit waits for the disk within the block; says so, or that it is not for us."""
        if self.postmaster is None:
            yield "as the server is set"
            return

        self._set("alter system set fsync = off")
        try:
            yield "fsync off"
        finally:
            self._set("alter system reset fsync")

    def _set(self, statement: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statement.encode())
            connection.execute("select pg_reload_conf()")


@contextmanager
def opened(dsn: str | None = None, *, durable: bool = True) -> Iterator[Place]:
    """The server that the DSN names, or the environment; else one of our own, until the end.

    If it is ``durable``, a commit on ours waits for the disk, as it does in production.
    """
    if outside := dsn or os.environ.get(VARIABLE):
        yield Place({GIVEN: outside}, postmaster=None)
        return

    with PostgresServer.start(tcp=True, durable=durable, settings=SETTINGS) as server:
        ways = {SOCKET: server.dsn(), TCP: server.tcp_dsn()}
        yield Place(ways, postmaster=server.pid)
