"""A backlog to drain: jobs committed behind a slot, and the slot copied for each run."""

import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Final

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from benchmarks import outbox
from benchmarks.case import Sample
from benchmarks.place import Place
from benchmarks.programs import Ran
from benchmarks.slots import copy_slot, drop_slot, read_all, slot_of
from benchmarks.task import Task
from benchmarks.usage import ServerUsage
from pgcdc_outbox.postgres.names import publication_name

SMALL: Final = 40
"""Bytes of a payload, about, if nothing else is asked for."""

_SHORTEST: Final = len('{"order": 1000000, "pad": ""}')

_ROWS: Final = """
do $$
begin
    for i in 1..{transactions} loop
        insert into outbox.immediate (topic, payload, created_at)
        select 'bench', convert_to(
            format('{{"order": %s, "pad": "%s"}}', n, current_setting('bench.pad')), 'UTF8'
        ), clock_timestamp() - {days} * random() * interval '1 day'
        from generate_series(1, {size}) as n;
        commit;
    end loop;
end
$$
"""

_POSITION: Final = "select snapshot::text, lsn::text, flushed::text from outbox.checkpoint"


class Backlog:
    """Jobs in one database, read again and again from copies of one slot.

    ``consumers`` have all started before the jobs were committed, and each has all of them
    to read. With ``days`` the jobs are as old as that, evenly.
    """

    def __init__(
        self,
        place: Place,
        dsn: str,
        *,
        jobs: int,
        size: int,
        payload: int = SMALL,
        consumers: Sequence[str] = ("default",),
        days: int = 0,
        prepare: str = "",
    ) -> None:
        """``size`` is how many jobs there are in a transaction, ``payload`` their bytes.

        ``prepare`` is a statement to run before there are any.
        """
        self.jobs = jobs - jobs % size
        self.dsn = dsn
        self._place = place
        self._slots: dict[str, str] = {}
        self._positions: dict[str, tuple[str, str, str]] = {}
        if prepare:
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute(prepare.encode())

        for name in consumers:
            self._register(name)

        self._commit(size, payload, days)

    def task(self, transport: str | None = None, **parameters: object) -> Task:
        """Reading all of it, and no more."""
        dsn = self.dsn if transport is None else self._place.through(transport, self.dsn)
        return Task(dsn=dsn, jobs=self.jobs, **parameters)  # type: ignore[arg-type]

    def rewind(self, name: str = "default") -> None:
        """Put a consumer back to where the backlog begins."""
        snapshot, lsn, flushed = self._positions[name]
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            drop_slot(connection, self._slots[name])
            copy_slot(connection, self._template(name), self._slots[name])
            connection.execute("delete from outbox.failed where consumer = %s", [name])
            connection.execute("delete from outbox.trace where consumer = %s", [name])
            connection.execute("truncate outbox.attempt")
            connection.execute(
                "update outbox.checkpoint set snapshot = %s, lsn = %s, flushed = %s, "
                "target = null, target_lsn = null, cursor_xid = null, cursor_id = null "
                "where consumer = %s",
                [snapshot, lsn, flushed, name],
            )

    def forget(self) -> None:
        """Forget every consumer, so that one which polls begins with the first row."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute("delete from outbox.consumer")

    @contextmanager
    def copied_slot(self) -> Iterator[str]:
        """A slot that stands before the backlog, for a reader that is not ours."""
        name = f"bench_{secrets.token_hex(4)}"
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            copy_slot(connection, self._template(next(iter(self._slots))), name)

        try:
            yield name
        finally:
            with psycopg.connect(self.dsn, autocommit=True) as connection:
                drop_slot(connection, name)

    def recvlogical(self, transport: str, publications: Sequence[str] = ()) -> Sample:
        """What pg_recvlogical does with the backlog when it throws everything away.

        With several ``publications`` one for each of them, with a slot of its own, all at
        the same time.
        """
        dsn = self._place.through(transport, self.dsn)
        names = publications or [publication_name("outbox")]
        with ExitStack() as stack:
            slots = [stack.enter_context(self.copied_slot()) for _ in names]
            pool = stack.enter_context(ThreadPoolExecutor(len(names)))
            with ServerUsage(self._place.postmaster) as server:
                ran = list(pool.map(partial(self._received, dsn), slots, names))

        return Sample(
            value=self.jobs / max(each.seconds for each in ran),
            also={
                "reader CPU µs/job": 1e6 * sum(each.usage.cpu_seconds for each in ran) / self.jobs,
                "reader switches/job": sum(each.usage.switches for each in ran) / self.jobs,
                **server.per_job(self.jobs),
            },
        )

    def _received(self, dsn: str, slot: str, publication: str) -> Ran:
        return self._place.programs.run(
            "pg_recvlogical", dsn, "--dbname", str(conninfo_to_dict(dsn)["dbname"]),
            "--slot", slot, "--start", "--endpos", self._end, "--no-loop", "--file", "/dev/null",
            "--option", "proto_version=1", "--option", "binary=true",
            "--option", f"publication_names={publication}",
        )  # fmt: skip

    def _register(self, name: str) -> None:
        read_all(self.dsn, name=name)
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            self._slots[name] = slot_of(connection, name)
            copy_slot(connection, self._slots[name], self._template(name))
            snapshot, lsn, flushed = connection.execute(
                f"{_POSITION} where consumer = %s".encode(), [name]
            ).fetchone() or ("", "", "")
            self._positions[name] = (snapshot, lsn, flushed)

    def _commit(self, size: int, payload: int, days: int) -> None:
        # Hexadecimal digits that do not repeat: the server would compress others.
        pad = secrets.token_hex(max(payload - _SHORTEST, 0) // 2 + 1)[: max(payload - _SHORTEST, 1)]
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute("set synchronous_commit = off")
            connection.execute("select set_config('bench.pad', %s, false)", [pad])
            connection.execute(
                sql.SQL(_ROWS).format(
                    transactions=sql.Literal(self.jobs // size),
                    size=sql.Literal(size),
                    days=sql.Literal(days),
                )
            )
            connection.execute("vacuum analyze outbox.immediate")
            connection.execute("checkpoint")
            (self._end,) = connection.execute("select pg_current_wal_lsn()::text").fetchone() or ()

    def _template(self, name: str) -> str:
        return f"template_{self._slots[name]}"[:63]


@contextmanager
def backlog(place: Place, **parameters: object) -> Iterator[Backlog]:
    """A backlog in a database of its own."""
    with place.database() as dsn:
        outbox.create(dsn)
        yield Backlog(place, dsn, **parameters)  # type: ignore[arg-type]
