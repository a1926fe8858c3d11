"""What a job leaves in the log and in the table, against a queue that claims and deletes."""

from collections.abc import Iterator
from functools import partial
from typing import Final

import psycopg

from benchmarks import outbox
from benchmarks.case import Case, Contender, Point, Sample, Scale
from benchmarks.place import Place
from benchmarks.slots import read_all

YARDSTICK: Final = "claim and delete"
_BATCH: Final = 100

# The textbook's queue: a table with a key, rows locked by whoever works on them.
_QUEUE: Final = """
create schema queue
    create table job (
        id         bigint generated always as identity primary key,
        created_at timestamptz not null default clock_timestamp(),
        topic      text not null,
        payload    bytea not null
    )
"""

_FILL: Final = """
do $$
begin
    for n in 1..{jobs} loop
        insert into {table} (topic, payload)
        values ('bench', convert_to(format('{{"order": %s, "pad": "xxxxxxxxxxxxx"}}', n), 'UTF8'));
        commit;
    end loop;
end
$$
"""

_CLAIM: Final = """
delete from queue.job
where id = any (array(
    select id from queue.job order by id limit {batch} for update skip locked
))
returning id, topic, payload
"""

# Everything that was updated or deleted left a dead tuple, whether vacuum has been there or not.
_DEAD: Final = """
select coalesce(sum(n_tup_upd + n_tup_del) filter (where relname ~ '^(job|immediate)'), 0)::float8,
       coalesce(sum(n_tup_upd + n_tup_del), 0)::float8
from pg_stat_user_tables
where schemaname = %s
"""

_SIZE: Final = """
select sum(pg_total_relation_size(c.oid))::float8
from pg_class as c
join pg_namespace as n on n.oid = c.relnamespace
where n.nspname = %s and c.relkind = 'r'
"""


class Storage(Case):
    """Jobs committed one by one, then handled; then the log and the tables are looked at."""

    name = "storage"
    title = "What a job leaves behind"
    unit = "bytes of log/job"
    counted = (
        "Bytes of write-ahead log from before the first insert to after the last job is handled, "
        "a transaction for each insert, over the number of jobs. Beside it: tuples that were "
        "updated or deleted, in the table of the jobs and in the whole schema, and the size of the "
        f"tables with their indexes at the end. The queue claims and deletes {_BATCH} jobs in a "
        "statement, in the order of their ids, and is vacuumed as the server sees fit."
    )
    durable = "Everything, within a second: commits did not wait for the disk."

    def points(self, place: Place, scale: Scale) -> Iterator[Point]:
        jobs = scale.size(1_000_000, quick=500)
        yield Point(
            name=f"{jobs:,} jobs",
            yardstick=YARDSTICK,
            contenders=[
                Contender(name=YARDSTICK, run=partial(_claiming, place, jobs), settings=""),
                Contender(name="outbox, the log is read", run=partial(_outbox, place, jobs)),
                Contender(
                    name="outbox, polling",
                    run=partial(_outbox, place, jobs, mode="polling"),
                ),
            ],
        )


def _claiming(place: Place, jobs: int) -> Sample:
    with place.database() as dsn, _quick_commits(dsn) as connection:
        connection.execute(_QUEUE.encode())
        before = _position(connection)
        connection.execute(_FILL.format(jobs=jobs, table="queue.job").encode())
        claim = _CLAIM.format(batch=_BATCH).encode()
        while connection.execute(claim).fetchall():
            pass

        connection.close()  # which hands in what it counted
        return _left(dsn, "queue", before, jobs)


def _outbox(place: Place, jobs: int, **settings: str) -> Sample:
    with place.database() as dsn:
        outbox.create(dsn)
        read_all(dsn, **settings)
        with _quick_commits(dsn) as connection:
            before = _position(connection)
            connection.execute(_FILL.format(jobs=jobs, table="outbox.immediate").encode())

        read_all(dsn, **settings)
        return _left(dsn, "outbox", before, jobs)


def _quick_commits(dsn: str) -> psycopg.Connection:
    return psycopg.connect(dsn, autocommit=True, options="-c synchronous_commit=off")


def _position(connection: psycopg.Connection) -> str:
    """Where the log is, right after a checkpoint: both write as many whole pages as they need."""
    connection.execute("checkpoint")
    (lsn,) = connection.execute("select pg_current_wal_insert_lsn()::text").fetchone() or ("",)
    return str(lsn)


def _left(dsn: str, schema: str, before: str, jobs: int) -> Sample:
    with psycopg.connect(dsn, autocommit=True) as connection:

        def one(statement: str, *parameters: str) -> tuple[float, ...]:
            return connection.execute(statement.encode(), parameters).fetchone() or ()

        (log,) = one("select (pg_current_wal_insert_lsn() - %s::pg_lsn)::float8", before)
        dead, dead_in_all = one(_DEAD, schema)
        (size,) = one(_SIZE, schema)

    return Sample(
        value=log / jobs,
        also={
            "dead tuples of jobs": dead,
            "dead tuples in all": dead_in_all,
            "tables MiB": size / 2**20,
        },
    )
