"""A backlog to drain: jobs committed behind a slot, and the slot copied for each run."""

import time

import anyio
import psycopg
from psycopg import sql

from pgcdc_outbox import Consumer
from pgcdc_outbox.postgres.migrate import migrate
from pgcdc_outbox.postgres.names import publication_name, slot_name
from pgcdc_outbox.testing.server import PostgresServer

_ROWS = """
do $$
begin
    for i in 1..{transactions} loop
        insert into outbox.immediate (topic, payload)
        select 'bench', convert_to(format('{{"order": %s, "pad": "xxxxxxxxxxxxx"}}', n), 'UTF8')
        from generate_series(1, {size}) as n;
        commit;
    end loop;
end
$$
"""


class Backlog:
    """Jobs in one database, read again and again from copies of one slot."""

    def __init__(self, server: PostgresServer, *, jobs: int, size: int) -> None:
        self.jobs = jobs
        self.size = size
        self._server = server
        self._database = f"bench_{size}"
        self._template = f"bench_template_{size}"
        self._copy = f"bench_copy_{size}"
        self.dsn = server.create_database(self._database)
        migrate(self.dsn)

        async def first_start() -> None:
            await Consumer(self.dsn, lambda jobs: None, observers=()).run(once=True)

        anyio.run(first_start)
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            (oid,) = connection.execute(
                "select oid::bigint from pg_database where datname = current_database()"
            ).fetchone() or (0,)
            self._slot = slot_name("outbox", "default", oid)
            self._copy_slot(connection, self._slot, self._template)
            connection.execute("set synchronous_commit = off")
            connection.execute(
                sql.SQL(_ROWS).format(
                    transactions=sql.Literal(jobs // size), size=sql.Literal(size)
                )
            )
            connection.execute("checkpoint")
            (self._end,) = connection.execute("select pg_current_wal_lsn()::text").fetchone() or ()
            self._checkpoint = connection.execute("select * from outbox.checkpoint").fetchone()

    def rewind(self) -> None:
        """Put the consumer back to where the backlog begins."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            _drop_slot(connection, self._slot)
            self._copy_slot(connection, self._template, self._slot)
            connection.execute(
                """
                update outbox.checkpoint
                set snapshot = %s, lsn = %s, flushed = %s
                """,
                [str(value) for value in (self._checkpoint or ())[3:6]],
            )

    def recvlogical(self) -> float:
        """Seconds that pg_recvlogical takes for the backlog, thrown away."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            _drop_slot(connection, self._copy)
            self._copy_slot(connection, self._template, self._copy)

        publication = publication_name("outbox")
        started = time.perf_counter()
        self._server.run_program(
            "pg_recvlogical", "--dbname", self._database, "--slot", self._copy, "--start",
            "--endpos", self._end, "--no-loop", "--file", "/dev/null",
            "--option", "proto_version=1", "--option", f"publication_names={publication}",
            "--option", "binary=true",
        )  # fmt: skip
        seconds = time.perf_counter() - started
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            _drop_slot(connection, self._copy)

        return seconds

    @staticmethod
    def _copy_slot(connection: psycopg.Connection, source: str, target: str) -> None:
        connection.execute("select pg_copy_logical_replication_slot(%s, %s)", (source, target))


def _drop_slot(connection: psycopg.Connection, name: str) -> None:
    connection.execute(
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots "
        "where slot_name = %s and not active",
        (name,),
    )
